package certs

import "errors"

// What is wrong with files: [Open] and [Source.Reload] wrap one of these, or the operating system's error (as fs.ErrNotExist),
// together with the file's name. The text never contains any of a file's content.
var (
	// ErrPair: a certificate without a key, or a key without a certificate.
	ErrPair = errors.New("a certificate and its private key go together: give both files or neither")
	// ErrNoPEM: the file has no PEM block of the kind that is wanted. An empty file has none.
	ErrNoPEM = errors.New("nothing of the kind in PEM form")
	// ErrDamaged: a PEM block that is cut short or does not parse. A file that is being written looks like that.
	ErrDamaged = errors.New("damaged or not written to the end")
	// ErrKey: a private key that TLS cannot use: an encrypted one, or one that is not RSA, ECDSA or Ed25519.
	ErrKey = errors.New("a private key that cannot be used")
	// ErrMismatch: the key is not that of the first certificate in the certificate file.
	ErrMismatch = errors.New("certificate and private key do not belong together")
	// ErrExpired: the certificate has expired, or every one of a CA bundle.
	ErrExpired = errors.New("expired")
	// ErrNotYetValid: the certificate becomes valid later, or this machine's clock is wrong.
	ErrNotYetValid = errors.New("not valid yet")
	// ErrTooLarge: a file of more than 1 MiB.
	ErrTooLarge = errors.New("larger than 1 MiB: that is no file of certificates")
)

// What is wrong with a client's chain: [Source.Verify] returns one of these or wraps an error of crypto/x509.
var (
	// ErrNoChain: the client gave no certificate.
	ErrNoChain = errors.New("no client certificate was given")
	// ErrNoCA: [Files] names no CAs, so that nobody's certificate can be valid.
	ErrNoCA = errors.New("no CAs for client certificates are configured")
)

// What [Develop] refuses. It has written nothing then.
var (
	// ErrName: a host or an identity that cannot be put into a certificate or named as a file.
	ErrName = errors.New("not a usable name")
	// ErrForeign: it would replace a file that it did not make, or use a CA that it cannot.
	ErrForeign = errors.New("left as it is")
)
