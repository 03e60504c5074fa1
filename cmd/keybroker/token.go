package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keybroker/keybroker/internal/access"
)

const tokenHelp = `keybroker token makes a bearer token for a client that has no certificate. The
token is shown once; the broker is given its hash.

  keybroker token --name reports
  keybroker token --name reports -o json | jq -r .token > /run/secrets/keybroker-token

To change a token without a gap: make a new one with the same name, list both
hashes, send the broker SIGHUP, give clients the new token, remove the old hash,
and send SIGHUP again.
`

func makeToken(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "token", tokenHelp)
	name := f.String("name", "", "who will have it: rules call it token:`name`")
	output := f.String("o", "text", "output: text or json")
	if err := f.parse(args); err != nil {
		return err
	}
	if *name == "" {
		return &usageError{"no name: give --name NAME"}
	}
	if err := access.CheckTokenName(*name); err != nil {
		return &usageError{"--name: " + err.Error()}
	}
	if *output != "text" && *output != "json" {
		return &usageError{fmt.Sprintf("-o: %q is neither text nor json", *output)}
	}
	token, hash := access.NewToken()
	if *output == "json" {
		return json.NewEncoder(env.stdout).Encode(map[string]string{
			"name": *name, "identity": "token:" + *name, "token": token, "sha256": hash.String(),
		})
	}
	_, err := fmt.Fprintf(env.stdout, `%s

Give it to the client and to nobody else: it is not shown again. The broker's
configuration has its hash, and a rule for who has it:

access:
  tokens:
    - name: %s
      sha256: [%s]
  rules:
    - identities: ["token:%s"]
      pools: ["*"]
      verbs: [acquire]

A client:

grpcurl -cacert certs/ca.crt -H 'authorization: Bearer kbt_…' 127.0.0.1:7070 list
`, token, *name, hash, *name)
	return err
}
