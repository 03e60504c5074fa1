package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pasted is what people paste into the wrong field. No error may repeat it.
const pasted = "sk-ant-api03-PASTED"

// one is a file with one provider, whose further lines begin on line 5 and are indented by four.
const one = `providers:
  - name: a
    type: openai
    keys: [{key: v}]
`

// keyed is a file with one key, whose further lines begin on line 6 and are indented by eight.
const keyed = `providers:
  - name: a
    type: openai
    keys:
      - key: v
`

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		// The file as a whole.
		"empty":           {"", `c.yaml:1: the file is empty; it needs at least providers`},
		"comments only":   {"# nothing\n", `c.yaml:1: the file is empty; it needs at least providers`},
		"null":            {"---\n~\n", `c.yaml:1: the file is empty; it needs at least providers`},
		"not YAML":        {"providers:\n  - name: a\n\ttype: b\n", `c.yaml:2: not valid YAML near this line; check indentation (no tabs), colons and quotes`},
		"unknown anchor":  {one + "    base_url: *" + pasted, `c.yaml:1: not valid YAML somewhere in the file; check values that begin with * and have no quotes`},
		"two documents":   {one + "---\n" + one, `c.yaml:5: a second YAML document begins; keep everything in one, without ---`},
		"a broken second": {one + "---\n[", `c.yaml:6: not valid YAML near this line; check indentation (no tabs), colons and quotes`},
		"a text":          {pasted, `c.yaml:1: expected fields, one "name: value" a line`},
		"a list":          {"- " + pasted, `c.yaml:1: expected fields, one "name: value" a line`},
		"alias":           {one + "    models: &m [x]\n    fallback: *m\n", `c.yaml:6: YAML aliases (*name) are not supported; write the value out`},
		"alias bomb": {"a: &a [x, x]\nb: &b [*a, *a]\nproviders: &c [*b, *b]\n",
			"c.yaml:2: YAML aliases (*name) are not supported; write the value out\n" +
				"c.yaml:2: YAML aliases (*name) are not supported; write the value out\n" +
				"c.yaml:3: YAML aliases (*name) are not supported; write the value out\n" +
				"c.yaml:3: YAML aliases (*name) are not supported; write the value out"},
		"alias to itself": {"providers: &p [*p]\n", `c.yaml:1: YAML aliases (*name) are not supported; write the value out`},

		// Fields.
		"unknown at the top":       {"provider: []\nproviders: []\n", "c.yaml:1: unknown field \"provider\"; known here: pooling, providers, server, store\nc.yaml:2: there are no providers; give at least one under providers"},
		"unknown in provider":      {one + "    strategy: random\n", `c.yaml:5: provider "a": unknown field "strategy"; known here: base_url, classes, enabled, fallback, flat_limits, groups, keys, lease, models, name, pooling, type`},
		"unknown in key":           {keyed + "        rpm: 1\n", `c.yaml:6: provider "a": key "key-1": unknown field "rpm"; known here: group, id, itpm_limit, key, key_file, max_concurrency, otpm_limit, priority, rpd_limit, rpm_limit, tpd_limit, tpm_limit, weight`},
		"unknown, a key":           {"server:\n  " + pasted + ": 1\n" + one, `c.yaml:2: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen`},
		"unknown, a mapping":       {"server: {? {a: b} : c}\n" + one, `c.yaml:1: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen`},
		"merge key":                {"server: {<<: {listen: x}}\n" + one, `c.yaml:1: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen`},
		"global pooling.enabled":   {"pooling: {enabled: true}\n" + one, `c.yaml:1: pooling: unknown field "enabled"; known here: strategy`},
		"given twice":              {one + "    type: anthropic\n", `c.yaml:5: provider "a": type is given twice; it is on line 3 already`},
		"wrong type, number":       {keyed + "        weight: " + pasted + "\n", `c.yaml:6: provider "a": key "key-1": weight must be a whole number, in digits and without quotes`},
		"wrong type, fraction":     {keyed + "        rpm_limit: 1.5\n", `c.yaml:6: provider "a": key "key-1": rpm_limit must be a whole number, in digits and without quotes`},
		"wrong type, exponent":     {keyed + "        rpm_limit: 1e3\n", `c.yaml:6: provider "a": key "key-1": rpm_limit must be a whole number, in digits and without quotes`},
		"wrong type, too long":     {keyed + "        rpm_limit: 99999999999999999999\n", `c.yaml:6: provider "a": key "key-1": rpm_limit must be a whole number, in digits and without quotes`},
		"wrong type, tagged":       {keyed + "        priority: !!int " + pasted + "\n", `c.yaml:6: provider "a": key "key-1": priority must be a whole number, in digits and without quotes`},
		"wrong type, bool":         {one + "    enabled: " + pasted + "\n", `c.yaml:5: provider "a": enabled must be true or false`},
		"wrong type, bool list":    {one + "    flat_limits: [true]\n", `c.yaml:5: provider "a": flat_limits must be true or false`},
		"wrong type, text":         {keyed + "        id: [x]\n", `c.yaml:6: provider "a": key "key-1": id must be a single text`},
		"wrong type, list":         {one + "    models: " + pasted + "\n", `c.yaml:5: provider "a": models must be a list, such as [a, b], or one "- " line for each entry`},
		"wrong type, keys":         {"providers:\n  - name: a\n    type: openai\n    keys: " + pasted + "\n", `c.yaml:4: provider "a": keys must be a list, such as [a, b], or one "- " line for each entry`},
		"wrong type, key":          {"providers:\n  - name: a\n    type: openai\n    keys:\n      - " + pasted + "\n", `c.yaml:5: provider "a": key "key-1": expected fields, one "name: value" a line`},
		"wrong type, provider":     {"providers:\n  - " + pasted + "\n", `c.yaml:2: provider #1: expected fields, one "name: value" a line`},
		"wrong type, providers":    {"providers: {a: b}\n", `c.yaml:1: providers must be a list, such as [a, b], or one "- " line for each entry`},
		"wrong type, server":       {"server: " + pasted + "\n" + one, `c.yaml:1: server: expected fields, one "name: value" a line`},
		"bad duration":             {"server: {drain_timeout: " + pasted + "}\n" + one, `c.yaml:1: server: drain_timeout must be a duration with its unit, such as 500ms, 2s or 1m30s`},
		"duration without unit":    {"server: {drain_timeout: 10}\n" + one, `c.yaml:1: server: drain_timeout must be a duration with its unit, such as 500ms, 2s or 1m30s`},
		"negative drain":           {"server: {drain_timeout: -1s}\n" + one, `c.yaml:1: server: drain_timeout is negative; use 0 to stop at once`},
		"bad strategy":             {one + "    pooling:\n      strategy: fastest\n", `c.yaml:6: provider "a": pooling: unknown strategy "fastest"; use one of least_loaded, round_robin, random, weighted`},
		"bad global strategy":      {"pooling: {strategy: " + pasted + "}\n" + one, `c.yaml:1: pooling: unknown strategy (not shown); use one of least_loaded, round_robin, random, weighted`},
		"a strategy like a secret": {"pooling: {strategy: hZ8Kq2mPv0Xw7RtB4nYs6LdC1fGj3aEu}\n" + one, `c.yaml:1: pooling: unknown strategy (not shown); use one of least_loaded, round_robin, random, weighted`},

		// Listening.
		"listen, no port":    {"server: {listen: localhost}\n" + one, `c.yaml:1: server: listen must be host:port, such as 127.0.0.1:7070`},
		"listen, bad port":   {"server: {listen: \"localhost:70700\"}\n" + one, `c.yaml:1: server: listen must be host:port, such as 127.0.0.1:7070`},
		"listen, everywhere": {"server: {listen: \":7070\"}\n" + one, `c.yaml:1: server: listen must be a loopback address, as there is no TLS yet and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost`},
		"listen, public":     {"server:\n  admin_listen: 10.0.0.1:7070\n" + one, `c.yaml:2: server: admin_listen must be a loopback address, as there is no TLS yet and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost`},
		"listen, a name":     {"server: {listen: \"localhost.example.com:1\"}\n" + one, `c.yaml:1: server: listen must be a loopback address, as there is no TLS yet and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost`},
		"listen twice":       {"server: {admin_listen: \"127.0.0.1:7070\"}\n" + one, `c.yaml:1: server: admin_listen is the same as listen; leave it out to serve operators there`},
		"listen, unset":      {"server: {listen: \"${NONE}\"}\n" + one, `c.yaml:1: server: listen: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},

		// Providers.
		"no providers":         {"server: {}\n", `c.yaml:1: there are no providers; give at least one under providers`},
		"no name, no type":     {"providers:\n  - keys: [{key: v}]\n", "c.yaml:2: provider #1: type is missing; use one of anthropic, openai\nc.yaml:2: provider #1: name is missing; give one"},
		"bad name":             {"providers:\n  - name: a b\n    type: openai\n    keys: [{key: v}]\n", `c.yaml:2: provider #1: name is no valid name; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit`},
		"a key for a name":     {"providers:\n  - name: " + pasted + "\n    type: openai\n    keys: [{key: v}]\n", `c.yaml:2: provider #1: name looks like a key's value, and it is shown in logs; choose a name`},
		"name twice":           {one + "  - {name: a, type: openai, keys: [{key: w}]}\n", `c.yaml:5: provider "a": name "a" is used twice; it is on line 2 already`},
		"unknown type":         {"providers:\n  - name: a\n    type: opnai\n    keys: [{key: v}]\n", `c.yaml:3: provider "a": unknown type "opnai"; use one of anthropic, openai`},
		"no keys":              {"providers:\n  - name: a\n    type: openai\n    enabled: true\n", `c.yaml:2: provider "a": there are no keys; give at least one under keys, or set enabled: false`},
		"empty keys":           {"providers:\n  - name: a\n    type: openai\n    keys:\n", `c.yaml:4: provider "a": there are no keys; give at least one under keys, or set enabled: false`},
		"base_url, scheme":     {one + "    base_url: ftp://x\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, no host":    {one + "    base_url: https://:80/\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, not a URL":  {one + "    base_url: \"https://" + pasted + ":x y/\"\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, password":   {one + "    base_url: https://u:" + pasted + "@x/\n", `c.yaml:5: provider "a": base_url must have no user, query or fragment; give credentials under keys`},
		"base_url, query":      {one + "    base_url: https://x/?key=" + pasted + "\n", `c.yaml:5: provider "a": base_url must have no user, query or fragment; give credentials under keys`},
		"base_url, unset":      {one + "    base_url: https://${NONE}/\n", `c.yaml:5: provider "a": base_url: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},
		"model twice":          {one + "    models:\n      - m\n      - m\n", `c.yaml:7: provider "a": "m" is listed twice; it is on line 6 already`},
		"model empty":          {one + "    models: [m, ~, [x]]\n", "c.yaml:5: provider \"a\": an entry of the list is empty or no text; remove it\nc.yaml:5: provider \"a\": an entry of the list is empty or no text; remove it"},
		"fallback unknown":     {one + "    fallback:\n      - b\n", `c.yaml:6: provider "a": fallback "b" is no provider of this file; name one of them`},
		"fallback to itself":   {one + "    fallback: [a]\n", `c.yaml:5: provider "a": a provider cannot be its own fallback; remove it`},
		"fallback twice":       {one + "    fallback: [b, b]\n  - {name: b, type: openai, keys: [{key: w}]}\n", `c.yaml:5: provider "a": "b" is listed twice; it is on line 5 already`},
		"lease, zero":          {one + "    lease: {start_within: 0s, max_wait: -1s}\n", "c.yaml:5: provider \"a\": lease: start_within must be above 0\nc.yaml:5: provider \"a\": lease: max_wait is negative; use 0 to never wait"},
		"lease, no time":       {one + "    lease:\n      default_ttl: 0s\n      max_ttl: 0s\n", "c.yaml:6: provider \"a\": lease: default_ttl must be above 0\nc.yaml:7: provider \"a\": lease: max_ttl must be above 0, and 24h at most"},
		"lease, above default": {one + "    lease:\n      start_within: 3m\n", `c.yaml:6: provider "a": lease: start_within (3m0s) is longer than default_ttl (2m0s); shorten it`},
		"lease, above max":     {one + "    lease:\n      default_ttl: 11m\n", `c.yaml:6: provider "a": lease: default_ttl (11m0s) is longer than max_ttl (10m0s); shorten it`},
		"lease, above a day":   {one + "    lease: {max_ttl: 24h1s}\n", `c.yaml:5: provider "a": lease: max_ttl must be above 0, and 24h at most`},

		// Classes and groups.
		"class without models": {one + "    classes:\n      - name: c\n", `c.yaml:6: provider "a": class "c": there are no models; list those that share the limits`},
		"class without name":   {one + "    classes:\n      - models: [m]\n", `c.yaml:6: provider "a": class #1: name is missing; give one`},
		"class twice":          {one + "    classes:\n      - {name: c, models: [m]}\n      - {name: c, models: [n]}\n", `c.yaml:7: provider "a": class "c": name "c" is used twice; it is on line 6 already`},
		"class, shared model":  {one + "    classes:\n      - {name: c, models: [m]}\n      - {name: d, models: [m]}\n", `c.yaml:7: provider "a": class "d": model "m" is in two classes; it is on line 6 already`},
		"class, foreign model": {one + "    models: [m]\n    classes:\n      - {name: c, models: [m, org/n]}\n", `c.yaml:7: provider "a": class "c": model "org/n" is not in the provider's models; add it there`},
		"class, bad limit":     {one + "    classes:\n      - name: c\n        models: [m]\n        tpm_limit: -1\n", `c.yaml:8: provider "a": class "c": tpm_limit is negative; use 0, or leave it out, for no limit`},
		"group twice":          {one + "    groups: [{name: g}, {name: g}]\n", `c.yaml:5: provider "a": group "g": name "g" is used twice; it is on line 5 already`},
		"group, bad limit":     {one + "    groups:\n      - name: g\n        rpd_limit: 1000000000000001\n", `c.yaml:7: provider "a": group "g": rpd_limit is above 10^15; use 0, or leave it out, for no limit`},
		"group not declared":   {keyed + "        group: g\n", `c.yaml:6: provider "a": key "key-1": group "g" is not declared; add it to the provider's groups`},

		// The store.
		"store, unknown": {"store: {type: etcd}\n" + one, `c.yaml:1: store: type is "etcd"; use bolt or memory`},
		"store, no path": {"store: {path: \"\"}\n" + one, `c.yaml:1: store: path is empty; leave it out for keybroker.db, or use type: memory to keep nothing`},
		// Keys.
		"no key":              {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n", `c.yaml:5: provider "a": key "k": key is empty; give a value, ${ENV_VAR} or key_file`},
		"empty key":           {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key: \"\"\n", `c.yaml:6: provider "a": key "k": key is empty; give a value, ${ENV_VAR} or key_file`},
		"blank key":           {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: \" \"\n", `c.yaml:5: provider "a": key "key-1": key is empty; give a value, ${ENV_VAR} or key_file`},
		"key and file":        {keyed + "        key_file: x\n", `c.yaml:5: provider "a": key "x": both key and key_file are given; keep one`},
		"key with a newline":  {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${NEWLINE}\n", `c.yaml:5: provider "a": key "NEWLINE": key begins or ends with white space; remove it`},
		"key, unset":          {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${NONE}\n", `c.yaml:5: provider "a": key "NONE": key: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},
		"key, empty variable": {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: x-${EMPTY}\n", `c.yaml:5: provider "a": key "key-1": key: environment variable "EMPTY" is not set, or empty; set it, or write $$ for a plain $`},
		"key, not closed":     {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${SET\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key, no variable":    {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${" + pasted + "}\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key, default syntax": {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${SET:-x}\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key file, none":      {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_file: " + pasted + "\n", `c.yaml:6: provider "a": key "k": key_file cannot be read: no such file or directory; check the path, which is relative to the configuration file`},
		"key file, a folder":  {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key_file: testdata\n", `c.yaml:5: provider "a": key "testdata": key_file cannot be read: is a directory; check the path, which is relative to the configuration file`},
		"id, bad":             {keyed + "        id: a/b\n", `c.yaml:6: provider "a": key #1: id is no valid name; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit`},
		"id, a key":           {keyed + "        id: " + pasted + "\n", `c.yaml:6: provider "a": key #1: id looks like a key's value, and it is shown in logs; choose a name`},
		"id twice":            {keyed + "        id: k\n      - {id: k, key: w}\n", `c.yaml:7: provider "a": key "k": id "k" is used twice; it is on line 6 already`},
		"default id twice":    {keyed + "        id: key-2\n      - key: w\n", `c.yaml:7: provider "a": key "key-2": id "key-2" is used twice; it is on line 6 already`},
		"same key twice":      {keyed + "      - {id: k, key: v}\n", `c.yaml:6: provider "a": key "k": the same key is on line 5 already (provider "a": key "key-1"); remove one`},
		"same key, two pools": {keyed + "  - name: b\n    type: openai\n    keys:\n      - key: v\n", `c.yaml:9: provider "b": key "key-1": the same key is on line 5 already (provider "a": key "key-1"); remove one`},
		"priority, high":      {keyed + "        priority: 3\n", `c.yaml:6: provider "a": key "key-1": priority is out of range; use 0 (low), 1 (normal) or 2 (high)`},
		"priority, negative":  {keyed + "        priority: -1\n", `c.yaml:6: provider "a": key "key-1": priority is out of range; use 0 (low), 1 (normal) or 2 (high)`},
		"weight, negative":    {keyed + "        weight: -1\n", `c.yaml:6: provider "a": key "key-1": weight is negative; use 1 or more`},
		"limit, negative":     {keyed + "        max_concurrency: -1\n", `c.yaml:6: provider "a": key "key-1": max_concurrency is negative; use 0, or leave it out, for no limit`},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := Parse("c.yaml", []byte(c.yaml), known(map[string]string{"SET": "set", "EMPTY": "", "NEWLINE": "x\n"}))
			require.EqualError(t, err, c.want)
			assert.Nil(t, config)
			assert.NotContains(t, err.Error(), pasted)
		})
	}
}

func TestAllProblemsAreReportedByLine(t *testing.T) {
	_, err := Parse("dir/c.yaml", []byte(`server:
  listen: 0.0.0.0:80
providers:
  - name: one
    type: nope
    fallback: [three]
    keys:
      - key: ${NONE}
        weight: -1
        priority: high
      - key_file: missing
  - name: two
    type: openai
`), known(nil))
	require.Error(t, err)
	var lines []string
	for _, line := range strings.Split(err.Error(), "\n") {
		lines = append(lines, line[:strings.LastIndex(line, ": ")])
	}
	assert.Equal(t, []string{
		`dir/c.yaml:2: server`,
		`dir/c.yaml:5: provider "one"`,
		`dir/c.yaml:6: provider "one"`,
		`dir/c.yaml:8: provider "one": key "NONE": key`,
		`dir/c.yaml:9: provider "one": key "NONE"`,
		`dir/c.yaml:10: provider "one": key "NONE"`,
		`dir/c.yaml:11: provider "one": key "missing": key_file cannot be read`,
		`dir/c.yaml:12: provider "two": there are no keys; give at least one under keys, or set enabled`,
	}, lines)
}

func TestQuoteShowsNamesOnly(t *testing.T) {
	for _, name := range []string{"a", "anthropic-eu-1", "ANTHROPIC_API_KEY_PRIMARY", "claude-sonnet-4-5-20250929", "_X", "org/model:8b", "gpt-4o", "least-loaded"} {
		assert.Equal(t, `"`+name+`"`, quote(name))
	}
	for _, text := range []string{"", "two words", "sk-x", "sk-ant-api03-x", "line\nline", "é", strings.Repeat("a", 64), "AIzaSyD3k9Xw2mQ7vLp0RtB4nYs6LdC1fGj3aEu", "5f2b8c1e9d7a4f6b8c2e1d3a5f7b9c0e", "key hZ8Kq2mPv0Xw7RtB4nYs6LdC"} {
		assert.Equal(t, "(not shown)", quote(text))
	}
}
