package config

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// helperTime is how long a helper may take.
const helperTime = 10 * time.Second

// runHelper returns the key that a command prints, without the newline at its end. The command has the broker's environment. The
// error repeats nothing that it printed, nor its arguments: either may hold a secret.
func (p *parser) runHelper(o *object, command []string) (string, error) {
	args := make([]string, len(command))
	for i, arg := range command {
		args[i] = p.expand(o, "key", arg, true)
	}
	if args[0] == "" {
		return "", errors.New("begins with an empty word; it must be the command to run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // #nosec G204 -- running what the operator configured is the point
	cmd.Dir, cmd.WaitDelay = p.dir, time.Second
	var out limited
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("took longer than %v, and was stopped; run it by hand to see why", helperTime)
	case out.full:
		return "", errors.New("printed more than 64 KiB; it must print the key alone")
	case errors.As(err, &exit):
		return "", fmt.Errorf("failed (%v); run it by hand to see why", exit)
	case errors.Is(err, exec.ErrWaitDelay):
		return "", errors.New("has left a child running that keeps its output open; it must end with all it began")
	case err != nil:
		return "", errors.New("cannot be run: there is no such command; give its path, or a name in PATH, and its arguments one by one")
	case strings.TrimSpace(string(out.data)) == "":
		return "", errors.New("printed nothing; it must print the key")
	}
	return withoutNewline(out.data), nil
}

// limited takes in as much as a key may have, and then fails.
type limited struct {
	data []byte
	full bool
}

func (l *limited) Write(b []byte) (int, error) {
	if l.full = l.full || len(l.data)+len(b) > maxKeyFileSize; l.full {
		return 0, errTooLarge
	}
	l.data = append(l.data, b...)
	return len(b), nil
}
