package canary

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// insideEnv says that a process is one whose output is searched by its parent.
const insideEnv = "KEYBROKER_CANARY_INSIDE"

// Main runs a package's tests and gives the exit code, for its TestMain. They run in a
// process of their own, so that all that they print is searched, to the last word of a
// crash, by one that goes on. If anything was found, the code is 1 where it would be 0.
//
// Main comes before all else in a TestMain, but for what other processes than the tests
// do, since all of that is done in both processes, and Main returns in the second only;
// prepare, if not nil, is called before the tests. With KEYBROKER_CANARY_INSIDE=1 in
// the environment, as for a debugger, there is one process, and what it prints is not
// searched.
func Main(m *testing.M, prepare func()) int {
	inside := os.Getenv(insideEnv)
	if inside == "" && !fuzzes() {
		syscall.Exit(outside()) // os.Exit waits for a second in a binary with the race detector
	}
	_ = os.Unsetenv(insideEnv) // children of the tests are on their own
	if inside == handsOver {
		syscall.CloseOnExec(secretsFile)
		secrets = os.NewFile(secretsFile, "secrets")
	}
	started.Store(true)
	watch()
	if prepare != nil {
		prepare()
	}
	return verdict(m.Run(), suite.findings())
}

// handsOver is the value of insideEnv where there is a parent that searches.
const handsOver = "parent"

// secretsFile is where the process with the tests tells its parent of secrets.
const secretsFile = 3

var (
	started   atomic.Bool
	secretsMu sync.Mutex
	secrets   *os.File // nil: nobody wants to know
)

// heard makes sure that somebody acts on what is found.
func heard() {
	if !started.Load() {
		panic("canary: nobody would hear of what is found: TestMain must call canary.Main")
	}
}

// tell has the parent search for a secret as well.
func tell(secret string) {
	secretsMu.Lock()
	defer secretsMu.Unlock()
	if secrets != nil {
		_, _ = fmt.Fprintln(secrets, base64.StdEncoding.EncodeToString([]byte(secret)))
	}
}

// fuzzes reports whether this is one of the processes that a fuzzing one has made, which
// talk to it.
func fuzzes() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.fuzzworker") {
			return true
		}
	}
	return false
}

// verdict prints what was found.
func verdict(code int, findings []string) int {
	if len(findings) == 0 {
		return code
	}
	fmt.Fprintf(os.Stderr, "canary: a key got out, in %d places:\n", len(findings))
	for _, f := range findings {
		fmt.Fprintf(os.Stderr, "canary: %s\n", f)
	}
	return max(code, 1)
}

// tee passes on what it keeps.
type tee struct {
	to   *os.File
	mu   sync.Mutex
	kept bytes.Buffer
}

func (t *tee) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.kept.Write(p)
	t.mu.Unlock()
	return t.to.Write(p)
}

// outside runs the process with the tests, and searches what it prints.
func outside() int {
	stdout := &tee{to: os.Stdout}
	stderr := &tee{to: os.Stderr}
	if same(os.Stdout, os.Stderr) { // then one pipe keeps the order
		stderr = stdout
	}
	all := newDetector()
	code, err := runInside(stdout, stderr, all)
	if err != nil {
		fmt.Fprintln(os.Stderr, "canary:", err)
		return max(code, 1)
	}
	all.text("what the tests print", stdout.kept.Bytes())
	if stderr != stdout {
		all.text("what the tests print on stderr", stderr.kept.Bytes())
	}
	return verdict(code, all.findings())
}

func same(a, b *os.File) bool {
	x, err := a.Stat()
	y, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// runInside gives the exit code of the process with the tests.
func runInside(stdout, stderr io.Writer, all *detector) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer func() { _ = r.Close() }()
	runtime.LockOSThread() // the child dies with the thread that made it
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], os.Args[1:]...) // #nosec G204 G702 -- ourselves
	cmd.Env = append(os.Environ(), insideEnv+"="+handsOver)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, stdout, stderr, []*os.File{w}
	cmd.SysProcAttr = diesWithParent()
	cmd.WaitDelay = time.Minute // for what processes print that outlive it
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return 1, err
	}
	done := make(chan struct{})
	var helpers sync.WaitGroup
	helpers.Go(func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	})
	helpers.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if secret, err := base64.StdEncoding.DecodeString(lines.Text()); err == nil {
				all.also(string(secret))
			}
		}
	})
	err = cmd.Wait()
	close(done)
	helpers.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		fmt.Fprintln(os.Stderr, exit) // killed
		return 2, nil
	}
	return 0, err
}
