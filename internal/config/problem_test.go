package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/access"
)

// pasted is what people paste into the wrong field. No error may repeat it.
const pasted = "sk-ant-cnry7f3a-PASTED"

// hash is that of token.
var token, hash = func() (string, string) { t, h := access.NewToken(); return t, h.String() }()

// one is a file with one provider, whose further lines begin on line 5 and are indented by four.
const one = `providers:
  - name: a
    type: openai
    keys: [{key: cnry7f3a-v}]
`

// keyed is a file with one key, whose further lines begin on line 6 and are indented by eight.
const keyed = `providers:
  - name: a
    type: openai
    keys:
      - key: cnry7f3a-v
`

// noRules is what is wrong with tokens alone.
const noRules = "c.yaml:1: access: there are no rules, so nobody may do anything; give at least one under access.rules, or leave access out\n"

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
		"unknown at the top":       {"provider: []\nproviders: []\n", "c.yaml:1: unknown field \"provider\"; known here: access, audit, pooling, providers, server, store\nc.yaml:2: there are no providers; give at least one under providers"},
		"unknown in provider":      {one + "    strategy: random\n", `c.yaml:5: provider "a": unknown field "strategy"; known here: base_url, classes, enabled, fallback, flat_limits, groups, keys, lease, models, name, pooling, pools, type`},
		"unknown in key":           {keyed + "        rpm: 1\n", `c.yaml:6: provider "a": key "key-1": unknown field "rpm"; known here: group, id, itpm_limit, key, key_exec, key_file, max_concurrency, otpm_limit, priority, rpd_limit, rpm_limit, tpd_limit, tpm_limit, weight`},
		"unknown, a key":           {"server:\n  " + pasted + ": 1\n" + one, `c.yaml:2: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen, max_connections, max_unproven_connections, metrics_listen, plaintext, tls`},
		"unknown, a mapping":       {"server: {? {a: b} : c}\n" + one, `c.yaml:1: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen, max_connections, max_unproven_connections, metrics_listen, plaintext, tls`},
		"merge key":                {"server: {<<: {listen: x}}\n" + one, `c.yaml:1: server: unknown field (not shown); known here: admin_listen, drain_timeout, listen, max_connections, max_unproven_connections, metrics_listen, plaintext, tls`},
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
		"listen, everywhere": {"server: {listen: \":7070\"}\n" + one, `c.yaml:1: server: listen must be a loopback address, as there is no TLS and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost, or give server.tls`},
		"listen, public":     {"server:\n  admin_listen: 10.0.0.1:7070\n" + one, `c.yaml:2: server: admin_listen must be a loopback address, as there is no TLS and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost, or give server.tls`},
		"listen, a name":     {"server: {listen: \"localhost.example.com:1\"}\n" + one, `c.yaml:1: server: listen must be a loopback address, as there is no TLS and keys would cross the network in the clear; use 127.0.0.1, [::1] or localhost, or give server.tls`},
		"listen twice":       {"server: {admin_listen: \"127.0.0.1:7070\"}\n" + one, `c.yaml:1: server: admin_listen is the same as listen; leave it out, or give it another port`},
		"listen, unset":      {"server: {listen: \"${NONE}\"}\n" + one, `c.yaml:1: server: listen: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},

		// Providers.
		"no providers":          {"server: {}\n", `c.yaml:1: there are no providers; give at least one under providers`},
		"no name, no type":      {"providers:\n  - keys: [{key: cnry7f3a-v}]\n", "c.yaml:2: provider #1: type is missing; use one of anthropic, openai\nc.yaml:2: provider #1: name is missing; give one"},
		"bad name":              {"providers:\n  - name: a b\n    type: openai\n    keys: [{key: cnry7f3a-v}]\n", `c.yaml:2: provider #1: name is no valid name; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit`},
		"a key for a name":      {"providers:\n  - name: " + pasted + "\n    type: openai\n    keys: [{key: cnry7f3a-v}]\n", `c.yaml:2: provider #1: name looks like a key's value, and it is shown in logs; choose a name`},
		"name twice":            {one + "  - {name: a, type: openai, keys: [{key: cnry7f3a-w}]}\n", `c.yaml:5: provider "a": name "a" is used twice; it is on line 2 already`},
		"unknown type":          {"providers:\n  - name: a\n    type: opnai\n    keys: [{key: cnry7f3a-v}]\n", `c.yaml:3: provider "a": unknown type "opnai"; use one of anthropic, openai`},
		"no keys":               {"providers:\n  - name: a\n    type: openai\n    enabled: true\n", `c.yaml:2: provider "a": there are no keys; give at least one under keys, or set enabled: false`},
		"empty keys":            {"providers:\n  - name: a\n    type: openai\n    keys:\n", `c.yaml:4: provider "a": there are no keys; give at least one under keys, or set enabled: false`},
		"base_url, scheme":      {one + "    base_url: ftp://x\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, no host":     {one + "    base_url: https://:80/\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, not a URL":   {one + "    base_url: \"https://" + pasted + ":x y/\"\n", `c.yaml:5: provider "a": base_url must be an http or https URL with a host, such as https://api.example.com`},
		"base_url, password":    {one + "    base_url: https://u:" + pasted + "@x/\n", `c.yaml:5: provider "a": base_url must have no user, query or fragment; give credentials under keys`},
		"base_url, query":       {one + "    base_url: https://x/?key=" + pasted + "\n", `c.yaml:5: provider "a": base_url must have no user, query or fragment; give credentials under keys`},
		"base_url, unset":       {one + "    base_url: https://${NONE}/\n", `c.yaml:5: provider "a": base_url: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},
		"model twice":           {one + "    models:\n      - m\n      - m\n", `c.yaml:7: provider "a": "m" is listed twice; it is on line 6 already`},
		"model empty":           {one + "    models: [m, ~, [x]]\n", "c.yaml:5: provider \"a\": an entry of the list is empty or no text; remove it\nc.yaml:5: provider \"a\": an entry of the list is empty or no text; remove it"},
		"fallback unknown":      {one + "    fallback:\n      - b\n", `c.yaml:6: provider "a": fallback "b" is no pool of this file; name one of them`},
		"fallback to itself":    {one + "    fallback: [a]\n", `c.yaml:5: provider "a": a pool cannot be its own fallback; remove it`},
		"fallback twice":        {one + "    fallback: [b, b]\n  - {name: b, type: openai, keys: [{key: cnry7f3a-w}]}\n", `c.yaml:5: provider "a": "b" is listed twice; it is on line 5 already`},
		"pool, no name":         {one + "    pools: [{}]\n", `c.yaml:5: provider "a": pool #1: name is missing; give one`},
		"pool, name of its own": {one + "    pools: [{name: a}]\n", `c.yaml:5: provider "a": pool "a": name "a" is used twice; it is on line 2 already`},
		"pools, no names":       {one + "    pools: [{}]\n  - {name: c, type: openai, keys: [{key: cnry7f3a-w}], pools: [{}]}\n", "c.yaml:5: provider \"a\": pool #1: name is missing; give one\nc.yaml:6: provider \"c\": pool #1: name is missing; give one"},
		"no names at all":       {"providers:\n  - {type: openai, keys: [{key: cnry7f3a-v}], pools: [{}]}\n", "c.yaml:2: provider #1: pool #1: name is missing; give one\nc.yaml:2: provider #1: name is missing; give one"},
		"pool, name twice":      {one + "    pools: [{name: b}]\n  - {name: c, type: openai, keys: [{key: cnry7f3a-w}], pools: [{name: b}]}\n", `c.yaml:6: provider "c": pool "b": name "b" is used twice; it is on line 5 already`},
		"pool, unknown group":   {one + "    pools: [{name: b, groups: [g]}]\n", `c.yaml:5: provider "a": pool "b": group "g" is neither a group of the provider nor a key without one; name one of those`},
		"pool, unknown model":   {one + "    models: [m]\n    pools: [{name: b, models: [x]}]\n", `c.yaml:6: provider "a": pool "b": model "x" is not in the provider's models; add it there`},
		"pool, fallback":        {one + "    pools: [{name: b, fallback: [a, x]}]\n", `c.yaml:5: provider "a": pool "b": fallback "x" is no pool of this file; name one of them`},
		"pool, keys":            {one + "    pools: [{name: b, keys: []}]\n", `c.yaml:5: provider "a": pool "b": unknown field "keys"; known here: fallback, groups, lease, models, name, pooling`},
		"lease, zero":           {one + "    lease: {start_within: 0s, max_wait: -1s}\n", "c.yaml:5: provider \"a\": lease: start_within must be above 0\nc.yaml:5: provider \"a\": lease: max_wait is negative; use 0 to never wait"},
		"lease, no time":        {one + "    lease:\n      default_ttl: 0s\n      max_ttl: 0s\n", "c.yaml:6: provider \"a\": lease: default_ttl must be above 0\nc.yaml:7: provider \"a\": lease: max_ttl must be above 0, and 24h at most"},
		"lease, above default":  {one + "    lease:\n      start_within: 3m\n", `c.yaml:6: provider "a": lease: start_within (3m0s) is longer than default_ttl (2m0s); shorten it`},
		"lease, above max":      {one + "    lease:\n      default_ttl: 11m\n", `c.yaml:6: provider "a": lease: default_ttl (11m0s) is longer than max_ttl (10m0s); shorten it`},
		"lease, above a day":    {one + "    lease: {max_ttl: 24h1s}\n", `c.yaml:5: provider "a": lease: max_ttl must be above 0, and 24h at most`},

		// Classes and groups.
		"class without models": {one + "    classes:\n      - name: c\n", `c.yaml:6: provider "a": class "c": there are no models; list those that share the limits`},
		"class, many models":   {one + "    classes:\n      - name: c\n        models: [" + strings.Repeat("m", 40<<10) + ", " + strings.Repeat("n", 30<<10) + "]\n", `c.yaml:7: provider "a": class "c": the names of the models have 70 KiB together, and may have 64; make several classes`},
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
		// Who may do what, over which wire.
		"tls without files":           {"server: {tls: {}}\naccess: {tokens: [{name: t, sha256: [" + hash + "]}], rules: [{identities: [\"token:t\"], pools: [a], verbs: [acquire]}]}\n" + one, "c.yaml:1: server: tls: cert_file is missing; give the path of a PEM file (keybroker certs makes some to try)\nc.yaml:1: server: tls: key_file is missing; give the path of a PEM file (keybroker certs makes some to try)"},
		"tls and plaintext":           {"server: {plaintext: true, tls: {cert_file: c, key_file: k}}\naccess: {tokens: [{name: t, sha256: [" + hash + "]}], rules: [{identities: [\"token:t\"], pools: [a], verbs: [acquire]}]}\n" + one, `c.yaml:1: server: plaintext and tls exclude each other; remove one`},
		"tls without rules":           {"server: {tls: {cert_file: c, key_file: k, client_ca_file: a}}\n" + one, `c.yaml:1: access: there are no rules, so nobody may do anything; give at least one under access.rules`},
		"tls without proof":           {"server: {tls: {cert_file: c, key_file: k}}\naccess: {rules: [{identities: [\"token:*\"], pools: [a], verbs: [acquire]}]}\n" + one, "c.yaml:2: access: rule #1: identity \"token:*\" needs a token, and there are none; add one under access.tokens\nc.yaml:2: access: nobody can prove who they are; give access.tokens, or server.tls.client_ca_file"},
		"no connections":              {"server: {max_connections: 0}\n" + one, `c.yaml:1: server: max_connections must be above 0`},
		"rule, empty":                 {"access:\n  rules:\n    - identities: [local]\n      pools: [a]\n" + one, `c.yaml:3: access: rule #1: verbs is empty; a rule needs identities, pools and verbs`},
		"rule, verb":                  {"access:\n  rules:\n    - identities: [local]\n      pools: [a]\n      verbs: [steal]\n" + one, `c.yaml:5: access: rule #1: unknown verb "steal"; use acquire, admin, inspect`},
		"rule, pool":                  {"access:\n  rules:\n    - identities: [local]\n      pools: [b, \"c*\"]\n      verbs: [acquire]\n" + one, `c.yaml:4: access: rule #1: pool "b" is not in this file; name one of them, or use a pattern with *`},
		"rule, no pattern":            {"access:\n  rules:\n    - identities: [local]\n      pools: [\"a b\"]\n      verbs: [acquire]\n" + one, `c.yaml:4: access: rule #1: pool (not shown) must be a pool's name, in which * stands for anything`},
		"rule, identity":              {"access:\n  rules:\n    - identities: [" + pasted + "]\n      pools: [a]\n      verbs: [acquire]\n" + one, `c.yaml:3: access: rule #1: identity (not shown) must be spiffe://domain/path, dns:name (in lower case), token:name or local; * stands for anything between separators, ** for anything`},
		"rule, unknown token":         {"access:\n  rules:\n    - identities: [\"token:x\"]\n      pools: [a]\n      verbs: [acquire]\n" + one, `c.yaml:3: access: rule #1: identity "token:x" is not among the tokens; add it there`},
		"rule, no certificates":       {"access:\n  rules:\n    - identities: [\"dns:x\"]\n      pools: [a]\n      verbs: [acquire]\n" + one, `c.yaml:3: access: rule #1: identity "dns:x" needs a certificate, and none can be checked; give server.tls.client_ca_file`},
		"rule, local with tls, after": {"access:\n  rules:\n    - identities: [local]\n      pools: [a]\n      verbs: [acquire]\nserver: {tls: {cert_file: c, key_file: k, client_ca_file: a}}\n" + one, `c.yaml:3: access: rule #1: identity local is whoever calls in plaintext, which there is none of with tls; remove it`},
		"rule, cap":                   {"access:\n  rules:\n    - identities: [local]\n      pools: [a]\n      verbs: [acquire]\n      max_leases: -1\n" + one, `c.yaml:6: access: rule #1: max_leases is negative; use 0 for no bound`},
		"token, no hash":              {"access:\n  tokens:\n    - name: t\n" + one, noRules + `c.yaml:3: access: token "t": sha256 must list one hash, or two while a token is changed`},
		"token, three":                {"access:\n  tokens:\n    - name: t\n      sha256: [" + hash + ", " + hash[2:] + "aa, " + hash[2:] + "bb]\n" + one, noRules + `c.yaml:4: access: token "t": sha256 must list one hash, or two while a token is changed`},
		"token, not a hash":           {"access:\n  tokens:\n    - name: t\n      sha256: [" + pasted + "]\n" + one, noRules + `c.yaml:4: access: token "t": sha256 must be a SHA-256 in hex, 64 digits, as keybroker token prints it`},
		"token, itself":               {"access:\n  tokens:\n    - name: t\n      sha256: [" + token + "]\n" + one, noRules + `c.yaml:4: access: token "t": sha256 is a token itself; give its hash, as keybroker token prints it, and make a new token: this one was written down`},
		"token, twice":                {"access:\n  tokens:\n    - {name: t, sha256: [" + hash + "]}\n    - {name: u, sha256: [" + hash + "]}\n" + one, noRules + `c.yaml:4: access: token "u": the same token is on line 3 already; remove one`},
		"rules, empty":                {"access: {rules: []}\n" + one, strings.TrimSuffix(noRules, "\n")},
		"audit in the store":          {"audit: {path: keybroker.db}\n" + one, `c.yaml:1: audit: path is the store's; give it a file of its own`},
		"audit, no path":              {"audit: {fail_open: true}\n" + one, `c.yaml:1: audit: path is missing; give a file, or leave audit out`},
		// Keys.
		"key and helper":        {keyed + "        id: k\n        key_exec: [x]\n", `c.yaml:5: provider "a": key "k": both key and key_exec are given; keep one`},
		"helper without a name": {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key_exec: [echo, sk]\n", `c.yaml:5: provider "a": key #1: id is missing; give one`},
		"helper, no such":       {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: [./nowhere, " + pasted + "]\n", `c.yaml:6: provider "a": key "k": key_exec cannot be run: there is no such command; give its path, or a name in PATH, and its arguments one by one`},
		"helper fails":          {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: [sh, -c, echo " + pasted + " >&2; exit 3]\n", `c.yaml:6: provider "a": key "k": key_exec failed (exit status 3); run it by hand to see why`},
		"helper, nothing":       {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: [\"true\"]\n", `c.yaml:6: provider "a": key "k": key_exec printed nothing; it must print the key`},
		"helper, too much":      {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: [yes]\n", `c.yaml:6: provider "a": key "k": key_exec printed more than 64 KiB; it must print the key alone`},
		"helper, empty":         {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: []\n", `c.yaml:6: provider "a": key "k": key is empty; give a value, ${ENV_VAR}, key_file or key_exec`},
		"helper, no list":       {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_exec: " + pasted + "\n", `c.yaml:6: provider "a": key "k": key_exec must be a list, such as [a, b], or one "- " line for each entry`},
		"no key":                {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n", `c.yaml:5: provider "a": key "k": key is empty; give a value, ${ENV_VAR}, key_file or key_exec`},
		"empty key":             {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key: \"\"\n", `c.yaml:6: provider "a": key "k": key is empty; give a value, ${ENV_VAR}, key_file or key_exec`},
		"blank key":             {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: \" \"\n", `c.yaml:5: provider "a": key "key-1": key is empty; give a value, ${ENV_VAR}, key_file or key_exec`},
		"key and file":          {keyed + "        key_file: x\n", `c.yaml:5: provider "a": key "x": both key and key_file are given; keep one`},
		"key with a newline":    {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${NEWLINE}\n", `c.yaml:5: provider "a": key "NEWLINE": key begins or ends with white space; remove it`},
		"key, unset":            {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${NONE}\n", `c.yaml:5: provider "a": key "NONE": key: environment variable "NONE" is not set, or empty; set it, or write $$ for a plain $`},
		"key, empty variable":   {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: cnry7f3a-${EMPTY}\n", `c.yaml:5: provider "a": key "key-1": key: environment variable "EMPTY" is not set, or empty; set it, or write $$ for a plain $`},
		"key, not closed":       {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${SET\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key, no variable":      {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${" + pasted + "}\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key, default syntax":   {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key: ${SET:-x}\n", `c.yaml:5: provider "a": key "key-1": key: malformed ${; write ${NAME} with a variable's name, or $$ for a plain $`},
		"key file, none":        {"providers:\n  - name: a\n    type: openai\n    keys:\n      - id: k\n        key_file: " + pasted + "\n", `c.yaml:6: provider "a": key "k": key_file cannot be read: no such file or directory; check the path, which is relative to the configuration file`},
		"key file, a folder":    {"providers:\n  - name: a\n    type: openai\n    keys:\n      - key_file: testdata\n", `c.yaml:5: provider "a": key "testdata": key_file cannot be read: is a directory; check the path, which is relative to the configuration file`},
		"id, bad":               {keyed + "        id: a/b\n", `c.yaml:6: provider "a": key #1: id is no valid name; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit`},
		"id, a key":             {keyed + "        id: " + pasted + "\n", `c.yaml:6: provider "a": key #1: id looks like a key's value, and it is shown in logs; choose a name`},
		"id twice":              {keyed + "        id: k\n      - {id: k, key: cnry7f3a-w}\n", `c.yaml:7: provider "a": key "k": id "k" is used twice; it is on line 6 already`},
		"default id twice":      {keyed + "        id: key-2\n      - key: cnry7f3a-w\n", `c.yaml:7: provider "a": key "key-2": id "key-2" is used twice; it is on line 6 already`},
		"same key twice":        {keyed + "      - {id: k, key: cnry7f3a-v}\n", `c.yaml:6: provider "a": key "k": the same key is on line 5 already (provider "a": key "key-1"); remove one`},
		"same key, two pools":   {keyed + "  - name: b\n    type: openai\n    keys:\n      - key: cnry7f3a-v\n", `c.yaml:9: provider "b": key "key-1": the same key is on line 5 already (provider "a": key "key-1"); remove one`},
		"priority, high":        {keyed + "        priority: 3\n", `c.yaml:6: provider "a": key "key-1": priority is out of range; use 0 (low), 1 (normal) or 2 (high)`},
		"priority, negative":    {keyed + "        priority: -1\n", `c.yaml:6: provider "a": key "key-1": priority is out of range; use 0 (low), 1 (normal) or 2 (high)`},
		"weight, negative":      {keyed + "        weight: -1\n", `c.yaml:6: provider "a": key "key-1": weight is negative; use 1 or more`},
		"limit, negative":       {keyed + "        max_concurrency: -1\n", `c.yaml:6: provider "a": key "key-1": max_concurrency is negative; use 0, or leave it out, for no limit`},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := Parse("c.yaml", []byte(c.yaml), known(map[string]string{"SET": "set", "EMPTY": "", "NEWLINE": "x\n"}))
			require.EqualError(t, err, c.want)
			assert.Nil(t, config)
			assert.NotContains(t, err.Error(), pasted)
			assert.NotContains(t, err.Error(), token)
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
