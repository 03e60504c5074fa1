package app_test

// The rooms: which package may import which; see ARCHITECTURE.md.

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/keybroker/keybroker"

// room is a package and what it imports.
type room struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// rule holds for a package and those below it. With only, it imports nothing
// beside the standard library and what is listed; with never, none of that. Both
// list packages, and what lies below them, of this module by their folder.
type rule struct {
	pkg         string
	only, never []string
}

var closed = []string{} // nothing but the standard library

var rules = []rule{
	{pkg: "internal/provider", only: closed},
	{pkg: "internal/secret", only: closed},
	{pkg: "internal/access", only: closed},
	{pkg: "internal/certs", only: []string{"internal/access"}},
	{pkg: "internal/audit", only: closed},
	{pkg: "internal/metrics", only: []string{"internal/broker", "internal/certs", "internal/provider", "pool", "github.com/prometheus", "google.golang.org/grpc"}},
	{pkg: "pool", only: []string{"internal/provider", "pool/limit"}},
	{pkg: "pool/limit", never: []string{"pool"}},
	{pkg: "internal/broker", only: []string{"pool", "internal/provider", "internal/failpoint", "internal/record"}},
	{pkg: "internal/record", only: []string{"pool", "internal/provider"}},
	{pkg: "internal/failover", only: closed},
	{pkg: "internal/failpoint", only: closed},
	{pkg: "internal/testing/storetest", never: []string{"cmd", "server", "client", "gen", "internal/app"}},
	{pkg: "internal/store", never: []string{"cmd", "server", "client", "gen", "internal/app"}},
	{pkg: "internal/config", only: []string{"internal/access", "internal/secret", "gopkg.in/yaml.v3"}},
	{pkg: "internal/sim", only: closed},
	{pkg: "internal/sandbox", only: []string{"internal/sim"}},
	{pkg: "server", never: []string{"cmd", "client", "internal/app", "internal/demo", "internal/sandbox"}},
	{pkg: "client", never: []string{"cmd", "pool", "server", "internal/broker", "internal/app"}},
	{pkg: "internal/app", never: []string{"cmd", "gen", "client", "internal/demo"}},
	{pkg: "internal/demo", never: []string{"cmd", "server", "pool", "internal/broker"}},
	{pkg: "internal/testing/killtest", never: []string{"cmd", "server", "internal/app"}},
	{pkg: "internal/fleet", only: []string{"pool", "internal/provider", "internal/sim", "internal/fleet", "gopkg.in/yaml.v3"}},
	{pkg: "scenarios", only: closed},
	{pkg: "internal/benchdoc", only: closed},
	{pkg: "internal/testing/siege", never: []string{"cmd", "server", "internal/app"}},
	{pkg: "internal/testing/canary", only: closed},
	{pkg: "internal/testing/long", only: closed},
	{pkg: "internal/testing/wiretap", only: []string{"gen", "internal/testing/canary", "google.golang.org/grpc", "google.golang.org/protobuf"}},
	{pkg: "internal/testing/mutants", never: []string{"cmd", "gen"}},
	{pkg: "cmd", never: []string{"gen", "cmd"}},
	{pkg: "gen", never: []string{"cmd", "server", "client", "internal", "pool"}},
}

// violations lists what breaks the rules, and which packages have none.
func violations(rooms []room, rules []rule) (found []string) {
	for _, r := range rooms {
		name, ours := strings.CutPrefix(r.ImportPath, module+"/")
		if !ours {
			continue
		}
		known := false
		for _, rule := range rules {
			if !under(name, rule.pkg) {
				continue
			}
			known = true
			for _, imported := range r.Imports {
				i := strings.TrimPrefix(imported, module+"/")
				standard := i == imported && !strings.Contains(strings.Split(i, "/")[0], ".")
				if rule.only != nil && !standard && !anyUnder(i, rule.only) || anyUnder(i, rule.never) {
					found = append(found, name+" imports "+i)
				}
			}
		}
		if !known {
			found = append(found, name+" has no rule")
		}
	}
	return found
}

func under(name, folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") }

func anyUnder(name string, folders []string) bool {
	for _, f := range folders {
		if under(name, f) {
			return true
		}
	}
	return false
}

func TestPackagesKeepToTheirRooms(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports", "./...")
	cmd.Dir = path.Join("..", "..")
	out, err := cmd.Output()
	require.NoError(t, err)
	var rooms []room
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var r room
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		rooms = append(rooms, r)
	}
	seen := map[string]bool{}
	for _, r := range rooms {
		seen[strings.TrimPrefix(r.ImportPath, module+"/")] = true
	}
	for _, must := range []string{"pool", "internal/broker", "server", "cmd/keybroker", "gen/keybroker/v1"} {
		require.True(t, seen[must], "go list does not see %s", must)
	}
	assert.Empty(t, violations(rooms, rules))
}

func TestRoomsCanBeBroken(t *testing.T) {
	own := func(names ...string) (out []string) {
		for _, n := range names {
			out = append(out, module+"/"+n)
		}
		return out
	}
	for _, c := range []struct {
		name string
		room room
		want []string
	}{
		{"as it should be", room{ImportPath: module + "/pool", Imports: append(own("internal/provider"), "fmt", "math/bits")}, nil},
		{"the engine logs", room{ImportPath: module + "/pool", Imports: []string{"log/slog", "github.com/x/log"}}, []string{"pool imports github.com/x/log"}},
		{"the engine knows the wire", room{ImportPath: module + "/pool", Imports: own("gen/keybroker/v1")}, []string{"pool imports gen/keybroker/v1"}},
		{"a package below", room{ImportPath: module + "/internal/provider/x", Imports: own("pool")}, []string{"internal/provider/x imports pool"}},
		{"somebody imports the program", room{ImportPath: module + "/server", Imports: own("cmd/keybroker")}, []string{"server imports cmd/keybroker"}},
		{"the client decides", room{ImportPath: module + "/client", Imports: own("pool")}, []string{"client imports pool"}},
		{"a name that only begins alike", room{ImportPath: module + "/internal/config", Imports: own("internal/secrets")}, []string{"internal/config imports internal/secrets"}},
		{"nobody has thought of it", room{ImportPath: module + "/internal/util"}, []string{"internal/util has no rule"}},
		{"others may do as they like", room{ImportPath: "golang.org/x/sync", Imports: own("cmd/keybroker")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, violations([]room{c.room}, rules))
		})
	}
}
