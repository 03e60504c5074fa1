// Crasher uses a store until a failpoint kills it:
//
//	KEYBROKER_FAILPOINT=after-save:3 crasher FILE SAVES
//
// It prints the number of each save that was acknowledged. Each save replaces a chunk, adds one
// and drops one.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/store/bolt"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path, saves string) error {
	n, err := strconv.Atoi(saves)
	if err != nil {
		return err
	}
	s, err := bolt.Open(path)
	if err != nil {
		return err
	}
	for i := range n {
		epoch, err := s.Claim(context.Background(), "crash")
		if err != nil {
			return err
		}
		r, err := s.Load(context.Background(), "crash")
		if err != nil {
			return err
		}
		number := []byte(strconv.Itoa(i))
		c := broker.Change{Put: map[string][]byte{broker.SoleChunk: number, "new " + string(number): number}, Drop: []string{"new " + strconv.Itoa(i-1)}}
		if _, err := s.Save(context.Background(), "crash", epoch, r.Version, c); err != nil {
			return err
		}
		fmt.Println(i)
	}
	return s.Close()
}
