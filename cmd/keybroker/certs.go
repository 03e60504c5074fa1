package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/certs"
)

const certsHelp = `keybroker certs makes a CA, a certificate for the broker and one for each client,
to try TLS with. It is for development: a real fleet has a CA that issues short
certificates and renews them (SPIRE, cert-manager, Vault).

A CA that is in the directory already is used again, so clients can be added
later. A certificate that is named again is replaced; the broker's is kept while
it is valid, unless --host is given. Files that this CA did not make are never
touched. The CA is valid for a year, the others for 90 days.

  keybroker certs --client reports.internal
  keybroker certs --dir certs --host broker.internal,127.0.0.1 --client spiffe://example.org/invoices
  keybroker certs --client a.internal,b.internal -o json | jq -r '.[].cert_file'
`

func makeCerts(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "certs", certsHelp)
	dir := f.String("dir", "certs", "`directory` of the files; made if missing")
	hosts := f.list("host", "`name` or address of the broker; repeat, or use commas (default "+strings.Join(certs.DefaultHosts, ",")+")")
	clients := f.list("client", "`identity` of a client, a SPIFFE id or a DNS name; repeat, or use commas")
	output := f.String("o", "text", "output: text or json")
	if err := f.parse(args); err != nil {
		return err
	}
	if *output != "text" && *output != "json" {
		return &usageError{fmt.Sprintf("-o: %q is neither text nor json", *output)}
	}
	if *dir == "" {
		return &usageError{"--dir: give a directory"}
	}
	made, err := certs.Develop(*dir, *hosts, *clients, time.Now())
	if errors.Is(err, certs.ErrName) {
		return &usageError{err.Error()}
	} else if err != nil {
		return err
	}
	if *output == "json" {
		e := json.NewEncoder(env.stdout)
		e.SetIndent("", "  ")
		return e.Encode(made)
	}
	return explainCerts(env.stdout, made)
}

// list is a flag that may be repeated and takes several values with commas between them.
func (f *flags) list(name, usage string) *[]string {
	var all []string
	f.Func(name, usage, func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				return errors.New("an empty name")
			}
			all = append(all, part)
		}
		return nil
	})
	return &all
}

// explainCerts tells people what there is now and what to do with it.
func explainCerts(w io.Writer, made []certs.Made) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CERTIFICATE\tKEY\tSTATE\tFOR\tVALID UNTIL")
	for _, m := range made {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", m.Cert, m.Key, m.State, strings.Join(m.Identities, ","), m.NotAfter.Format("2006-01-02 15:04 MST"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nThe broker's configuration:\n\n")
	ca, server := made[0], made[1]
	if err := writeTLS(w, ca, server); err != nil {
		return err
	}
	if len(made) == 2 {
		fmt.Fprint(w, "\nNo client has a certificate yet: name some with --client.\n")
		return nil
	}
	client := made[2]
	_, err := fmt.Fprintf(w, "\nA client:\n\ngrpcurl -cacert %s -cert %s -key %s %s keybroker.v1.AdminService/ListPools\n",
		shellWord(ca.Cert), shellWord(client.Cert), shellWord(client.Key), net.JoinHostPort(dialled(server.Identities), "7070"))
	return err
}

// writeTLS prints the section of a configuration.
func writeTLS(w io.Writer, ca, server certs.Made) error {
	type files struct {
		Cert     string `yaml:"cert_file"`
		Key      string `yaml:"key_file"`
		ClientCA string `yaml:"client_ca_file"`
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	err := e.Encode(map[string]map[string]files{"server": {"tls": {server.Cert, server.Key, ca.Cert}}})
	return errors.Join(err, e.Close())
}

// dialled is the host for an example: what serve listens on by itself, if the certificate is for that.
func dialled(hosts []string) string {
	for _, near := range []string{"127.0.0.1", "localhost"} {
		if slices.Contains(hosts, near) {
			return near
		}
	}
	return hosts[0]
}

// shellWord quotes what a shell would not take as one word.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}
