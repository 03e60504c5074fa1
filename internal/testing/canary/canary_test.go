package canary

// A canary that cannot sing is worth nothing: a key is planted in each kind of place,
// and must be found.

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Main(m, nil)) }

// sings requires that there is one finding, which shows no key.
func sings(t *testing.T, d *detector, want string) {
	t.Helper()
	found := d.findings()
	require.Len(t, found, 1)
	assert.Contains(t, found[0], want)
	quiet := newDetector()
	quiet.text("", []byte(found[0]))
	assert.Empty(t, quiet.findings(), "what is told has no key")
}

func TestForms(t *testing.T) {
	compressed := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return "before" + b.String()
	}
	quoted, err := json.Marshal(map[string][]byte{"key": []byte(Key("json"))})
	require.NoError(t, err)
	key := Key("one")
	for name, c := range map[string]struct{ text, form string }{
		"as it is":          {`{"key":"` + key + `"}`, "as it is"},
		"the mark alone":    {Mark, "as it is"},
		"in capitals":       {strings.ToUpper(key), "in capitals"},
		"hexadecimal":       {hex.EncodeToString([]byte(key)), "in hexadecimal"},
		"%X":                {fmt.Sprintf("%X", key), "in hexadecimal"},
		"%v of bytes":       {fmt.Sprint([]byte(key)), "as bytes"},
		"%#v of bytes":      {fmt.Sprintf("%#v", []byte(key)), "as bytes"},
		"base64 in JSON":    {string(quoted), "in base64"},
		"compressed":        {compressed(key), "as it is"},
		"base64, three off": {base64.StdEncoding.EncodeToString([]byte("   " + key)), "in base64"},
		"base64, one off":   {base64.URLEncoding.EncodeToString([]byte(" " + key + "?")), "in base64"},
		"base64, two off":   {base64.RawStdEncoding.EncodeToString([]byte("  " + key + "?>")), "in base64"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDetector()
			d.text("here", []byte(c.text))
			sings(t, d, "("+c.form+", 1 times)")
		})
	}
	d := newDetector()
	d.text("here", []byte("cnry sk-7f3a "+base64.StdEncoding.EncodeToString([]byte("no key"))+"\x1f\x8b\x08 no gzip"))
	assert.Empty(t, d.findings())
}

// Every way to cut a text in two, and one byte at a time.
func TestPieces(t *testing.T) {
	text := "before " + Key("pieces") + " behind"
	for i := range len(text) {
		d := newDetector()
		w := d.writer("a log")
		for _, part := range []string{text[:i], text[i:], "more"} {
			n, err := w.Write([]byte(part))
			require.NoError(t, err)
			require.Equal(t, len(part), n)
		}
		sings(t, d, "a log (as it is, 1 times): ")
	}
	d := newDetector()
	w := d.writer("a log")
	for range 3 {
		for i := range len(text) {
			_, _ = w.Write([]byte(text[i : i+1]))
		}
	}
	sings(t, d, "a log (as it is, 3 times): before [the key]")
}

func TestOtherSecrets(t *testing.T) {
	for form, text := range map[string]string{"as it is": "x token-of-mine y", "in base64": base64.StdEncoding.EncodeToString([]byte("token-of-mine"))} {
		d := newDetector()
		w := d.writer("a log")
		_, _ = w.Write([]byte("token-of-mi"))
		d.also("token-of-mine")
		_, _ = w.Write([]byte("ne"))
		assert.Len(t, d.findings(), 1)
		d = newDetector()
		d.also("token-of-mine")
		d.text("here", []byte(text))
		sings(t, d, form)
	}
}

func TestFiles(t *testing.T) {
	put := func(dir, name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for name, c := range map[string]struct {
		do   func(dir string)
		want string // part of a finding
	}{
		"a file":            {func(dir string) { put(dir, "state.db", "\x00"+Key("file")) }, "the file state.db of"},
		"in a folder below": {func(dir string) { put(dir, "a/b/c", hex.EncodeToString([]byte(Mark))) }, "the file a/b/c of"},
		"its name":          {func(dir string) { put(dir, Key("name"), "") }, "the name of a file of"},
		"gone": {func(dir string) {
			put(dir, "gone", Key("gone"))
			settle()
			require.NoError(t, os.Remove(filepath.Join(dir, "gone")))
		}, "the file gone of"},
		"gone with its folder": {func(dir string) {
			put(dir, "a/gone", Key("gone"))
			settle()
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "a")))
		}, "the file a/gone of"},
		"gone, replaced": {func(dir string) {
			put(dir, "new", Key("replaced"))
			settle()
			require.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "state.db")))
			settle()
			put(dir, "new", "clean")
			require.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "state.db")))
		}, "of"},
		"on purpose": {func(dir string) { put(dir, "a/broker.yaml", Key("config")) }, ""},
		"nothing":    {func(dir string) { put(dir, "state.db", "nothing") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "gone") && !keeps {
				t.Skip("what is gone cannot be searched here")
			}
			d := newDetector()
			complaints := 0
			t.Run("world", func(t *testing.T) {
				c.do(d.dir(t, func(string, ...any) { complaints++ }, "broker.*"))
			})
			found := d.findings()
			assert.Equal(t, c.want != "", len(found) > 0)
			assert.Equal(t, c.want != "", complaints == 1)
			for _, f := range found {
				assert.Contains(t, f, c.want)
				assert.NotContains(t, f, Mark)
			}
		})
	}
}

type node struct {
	next  *node
	plain string
	more  map[string]any
	quiet func() string
}

func TestObjects(t *testing.T) {
	key := Key("object")
	for name, x := range map[string]any{
		"a field": node{plain: key}, "through pointers": &node{next: &node{next: &node{plain: key}}},
		"in a map": node{more: map[string]any{"x": []any{&key}}}, "a map's key": map[string]int{key: 1},
		"bytes": struct{ b []byte }{[]byte(key)}, "an array": [8]byte([]byte(Mark)),
	} {
		d := newDetector()
		d.object(name, x)
		sings(t, d, name)
	}
	d := newDetector()
	circle := &node{quiet: func() string { return key }}
	circle.next = circle
	d.object("a closure", circle)
	d.object("a detector", suite)
	assert.Empty(t, d.findings())
}

// TestProcess is what TestProcesses runs.
func TestProcess(t *testing.T) {
	switch os.Getenv("LEAK") {
	case "":
		t.Skip("it is for TestProcesses")
	case "stdout":
		fmt.Println(Key("printed"))
	case "stderr":
		_, _ = syscall.Write(2, []byte(Key("printed")))
	case "the test's log":
		t.Log(Key("logged"))
	case "the program's log":
		Logger("some log").Debug("x", slog.Group("g", slog.String("key", Key("logged"))))
	case "a text":
		Text("some text", Key("text"))
	case "a file":
		require.NoError(t, os.WriteFile(filepath.Join(Dir(t), "f"), []byte(Key("file")), 0o600))
	case "an object":
		Object("some object", &node{plain: Key("object")})
	case "a crash": // far more than a pipe holds
		for range 3000 {
			go func() { select {} }()
		}
		go func() { panic("it was " + Key("crash")) }()
		select {}
	case "a token, printed before it is known":
		fmt.Println("a token: 0123456789abcdef")
		Also("0123456789abcdef")
	case "exit":
		os.Exit(3)
	case "order":
		for i := range 1000 {
			_, _ = fmt.Fprintf([]*os.File{os.Stdout, os.Stderr}[i%2], "line %d.\n", i)
		}
	}
}

func TestProcesses(t *testing.T) {
	for leak, want := range map[string]struct {
		code int
		text string
	}{
		"nothing": {0, ""}, "stdout": {1, "what the tests print"}, "stderr": {1, "what the tests print"}, "the test's log": {1, "what the tests print"},
		"the program's log": {1, "some log"}, "a text": {1, "some text"}, "a file": {1, "the file f"}, "an object": {1, "some object, in a string"},
		"a crash": {2, "what the tests print"}, "a token, printed before it is known": {1, "what the tests print"}, "exit": {3, ""}, "order": {0, ""},
	} {
		t.Run(leak, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestProcess$", "-test.v")
			cmd.Env = append(os.Environ(), "LEAK="+leak, "GOTRACEBACK=all", "GORACE=atexit_sleep_ms=0")
			out, _ := cmd.CombinedOutput() // which has keys
			assert.Equal(t, want.code, cmd.ProcessState.ExitCode())
			var sung []string
			for line := range strings.Lines(string(out)) {
				if strings.HasPrefix(line, "canary: ") {
					sung = append(sung, line)
				}
			}
			assert.Equal(t, want.text != "", len(sung) > 0)
			for _, line := range sung {
				assert.False(t, strings.Contains(line, Mark), "what is told has no key")
			}
			assert.Contains(t, strings.Join(sung, ""), want.text)
			switch leak {
			case "order":
				var lines strings.Builder
				for i := range 1000 {
					fmt.Fprintf(&lines, "line %d.\n", i)
				}
				assert.True(t, strings.Contains(string(out), lines.String()), "nothing is lost or in disorder")
			case "a crash":
				assert.True(t, strings.Contains(string(out), "goroutine 3000 "), "nothing is cut off")
			}
		})
	}
}

func TestNobodyHears(t *testing.T) {
	started.Store(false)
	defer started.Store(true)
	assert.Panics(t, func() { Writer("x") })
}
