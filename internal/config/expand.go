package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// errUnset completes "environment variable X". It is the one error of expand that does not lie in the file.
var errUnset = errors.New("is not set, or empty; set it, or write $$ for a plain $")

var (
	variable      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	wholeVariable = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
)

// expand replaces every ${NAME} in text by the environment variable's value, which is not expanded again, and $$ by $. Any other $
// stands for itself.
func expand(text string, getenv func(string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		out.WriteString(before)
		switch {
		case !found:
			return out.String(), nil
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			text = after[1:]
		case strings.HasPrefix(after, "{"):
			name, rest, closed := strings.Cut(after[1:], "}")
			if !closed || !variable.MatchString(name) {
				return "", errors.New("malformed ${; write ${NAME} with a variable's name, or $$ for a plain $")
			}
			value, _ := getenv(name)
			if value == "" {
				return "", fmt.Errorf("environment variable %s %w", quote(name), errUnset)
			}
			out.WriteString(value)
			text = rest
		default:
			out.WriteByte('$')
			text = after
		}
	}
}
