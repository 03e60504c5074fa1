// Benchdoc reads from its standard input what `go test -bench` printed, and writes
// docs/benchmarks.md to its standard output; `make bench` runs it. It fails if a
// benchmark did, or if one is missing that the document is about, and writes
// nothing then.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(os.Stdin, os.Stdout, here()); err != nil {
		fmt.Fprintln(os.Stderr, "benchdoc:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, m machine) error {
	o, err := parse(in)
	if err != nil {
		return err
	}
	text, err := document(o, m)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

// machine is where and when the benchmarks ran. The model of the processor is in
// their output.
type machine struct {
	Date  time.Time
	Cores int // that this process may use
	Go    string
	OS    string
}

// here describes this machine, on which the benchmarks have just run. What a system
// does not tell is left out.
func here() machine {
	m := machine{Date: time.Now().UTC(), Cores: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(release)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				m.OS = strings.Trim(name, `"`) + ", " + m.OS
			}
		}
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS += ", kernel " + strings.TrimSpace(string(kernel))
	}
	return m
}
