package main

import (
	"context"
	"encoding/json"
	"fmt"

	"gopkg.in/yaml.v3"
)

const checkHelp = `keybroker check reads a configuration as serve would, and prints what is in
force: defaults filled in, keys hidden. All mistakes are listed, by line, and
the exit code is 3.

  keybroker check --config broker.yaml
  keybroker check --config broker.yaml -o json | jq '.providers[].name'
`

func check(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "check", checkHelp)
	path := f.String("config", "", "configuration `file`")
	plaintext := f.Bool("plaintext", false, "as serve --plaintext")
	output := f.String("o", "yaml", "output: yaml or json")
	if err := f.parse(args); err != nil {
		return err
	}
	if *path == "" {
		return &usageError{"no configuration: give --config FILE"}
	}
	cfg, err := loadConfig(env, *path, false, *plaintext)
	if err != nil {
		return err
	}
	var text []byte
	switch *output {
	case "yaml":
		text, err = yaml.Marshal(cfg.Effective())
	case "json":
		text, err = json.MarshalIndent(cfg.Effective(), "", "  ")
		text = append(text, '\n')
	default:
		return &usageError{fmt.Sprintf("-o: %q is neither yaml nor json", *output)}
	}
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(text)
	return err
}
