package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

// A bearer token is "kbt_", 32 random bytes and a checksum, both in hex: 256 bits
// that nobody guesses, in a shape that secret scanners can be told of
// (kbt_[0-9a-f]{72}) and can check without asking anybody.
const (
	tokenMark  = "kbt_"
	tokenBytes = 32
	tokenSize  = len(tokenMark) + 2*(tokenBytes+crc32.Size)
)

// Hash is the SHA-256 of a token, which is all that a broker keeps. It needs no salt
// and no stretching: nobody can guess 256 random bits.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads a Hash in hex.
func ParseHash(text string) (h Hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("must be a SHA-256 in hex, %d digits, as keybroker token prints it", 2*len(h))
	}
	return Hash(b), nil
}

// NewToken makes a token, and the hash by which it is known.
func NewToken() (token string, h Hash) {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	token = tokenMark + hex.EncodeToString(b[:])
	token += checksum(token)
	return token, HashToken(token)
}

// HashToken gives the hash of a token.
func HashToken(token string) Hash { return sha256.Sum256([]byte(token)) }

// LooksLikeToken reports whether a text has the shape of a token, checksum included.
func LooksLikeToken(text string) bool {
	return len(text) == tokenSize && text[:len(tokenMark)] == tokenMark &&
		text[tokenSize-2*crc32.Size:] == checksum(text[:tokenSize-2*crc32.Size])
}

func checksum(text string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text))) }
