package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const quick = `
name: quick
about: a quick one
duration: 2m
warm_up: 30s
provider: {type: anthropic, groups: [{name: org, keys: 2, limits: {rpm: 120, itpm: 200000, otpm: 40000}}]}
services: [{name: web, count: 4, workers: 8}]
expect: [{share: EXPECTED}]
`

func scenario(t *testing.T, expected string) string {
	path := filepath.Join(t.TempDir(), "quick.yaml")
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(quick, "EXPECTED", expected, 1)), 0o600))
	return path
}

func TestSimulate(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.html")
	env, stdout, stderr := around(nil)
	require.Equal(t, exitOK, run(t.Context(), env, []string{"simulate", "--scenario", scenario(t, "0.9"), "--strategy", "broker,random", "--html", page}), stderr.String())
	assert.Contains(t, stdout.String(), "quick: a quick one")
	assert.Contains(t, stdout.String(), "random")
	assert.Contains(t, stderr.String(), "2 of 2: quick")
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Contains(t, string(html), "</html>")

	again := func(args ...string) string {
		env, stdout, stderr := around(nil)
		require.Equal(t, exitOK, run(t.Context(), env, append([]string{"simulate", "--scenario", scenario(t, "0.9"), "-o", "json"}, args...)), stderr.String())
		return stdout.String()
	}
	assert.Equal(t, again(), again(), "for scripts, and always the same")
	assert.NotEqual(t, again(), again("--seed", "2"))
	var got []struct {
		Name    string
		Results []struct {
			Strategy string
			Share    float64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(again()), &got))
	require.Len(t, got, 1)
	assert.Len(t, got[0].Results, 6)
	assert.Greater(t, got[0].Results[0].Share, 0.9)
}

func TestSimulateFailsIfSomethingIsMissed(t *testing.T) {
	env, stdout, stderr := around(nil)
	assert.Equal(t, exitFailed, run(t.Context(), env, []string{"simulate", "--scenario", scenario(t, "1"), "--strategy", "broker"}))
	assert.Contains(t, stdout.String(), "MISSED by broker")
	assert.Contains(t, stderr.String(), "misses what is expected")
}

// What would I get from these keys?
func TestSimulateAConfiguration(t *testing.T) {
	path := file(t, "providers:\n- name: p\n  type: anthropic\n  groups: [{name: org, rpm_limit: 600}, {name: empty, rpm_limit: 60}]\n"+
		"  keys: [{id: a, key: sk-cnry7f3a-simulate-a, group: org, rpm_limit: 10}, {id: b, key: sk-cnry7f3a-simulate-b, group: org}, {id: c, key: sk-cnry7f3a-simulate-c}]\n"+
		"- {name: slots, type: deepseek, keys: [{id: d, key: sk-cnry7f3a-simulate-d, max_concurrency: 2}]}\n"+
		"- {name: off, type: openai, enabled: false}\n")
	env, stdout, stderr := around(nil)
	require.Equal(t, exitOK, run(t.Context(), env, []string{"simulate", "--config", path, "--services", "3", "--strategy", "broker", "-o", "json"}), stderr.String())
	var got []struct {
		Name    string
		Results []struct {
			Share    float64
			Accounts []struct{ Group, Binding string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &got))
	assert.Contains(t, stderr.String(), `note: provider "p": the limits of key "a" within its group are not simulated`)
	assert.Contains(t, stderr.String(), `note: provider "p": the limits of "c" are not stated; simulated as rpm: 50, itpm: 40000, otpm: 8000, which the broker learns`)
	assert.Contains(t, stderr.String(), `note: provider "p": of "org" no limit on input tokens and output tokens is stated; simulated without one`)
	assert.NotContains(t, stderr.String(), "pooling", "of one key")
	require.Len(t, got, 2)
	assert.Equal(t, "p", got[0].Name)
	require.Len(t, got[0].Results[0].Accounts, 2, "none for a group without keys")
	assert.Equal(t, "org", got[0].Results[0].Accounts[0].Group)
	assert.Positive(t, got[0].Results[0].Share)
	assert.Equal(t, "calls at a time, seconds", got[1].Results[0].Accounts[0].Binding)
	assert.InDelta(t, 0.9, got[1].Results[0].Share, 0.1, "a hop between two calls is all that is lost")
}

func TestSimulateABuiltInScenario(t *testing.T) {
	env, stdout, stderr := around(nil)
	require.Equal(t, exitOK, run(t.Context(), env, []string{"simulate", "--scenario", "small-limit", "--strategy", "broker,broker"}), stderr.String())
	assert.Contains(t, stderr.String(), "1 of 1: small-limit")
	assert.Contains(t, stdout.String(), "small-limit")
}

// An interrupted run ends at once, and leaves the page that there was.
func TestSimulateIsInterrupted(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.html")
	require.NoError(t, os.WriteFile(page, []byte("of yesterday"), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	env, _, stderr := around(nil)
	assert.NotEqual(t, exitOK, run(ctx, env, []string{"simulate", "--scenario", "anthropic-saturated", "--strategy", "broker", "--html", page}))
	assert.NotContains(t, stderr.String(), "of 1: anthropic-saturated", "it has run to its end")
	kept, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, "of yesterday", string(kept), "what an interrupted run would replace")
}

func TestSimulateUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--strategy hope":                    `there is no "hope"`,
		"-o xml":                             `"xml" is neither`,
		"--config a.yaml --scenario b.yaml":  "either --scenario or --config",
		"--scenario nowhere.yaml":            "nowhere.yaml",
		"--services 0 --config a.yaml":       "must be 1 at least",
		"--services 5":                       "--services goes with --config",
		"--scenario nowhere":                 "as are anthropic-input, ",
		"--html /nowhere/page.html":          "/nowhere/page.html",
		"--scenario " + scenario(t, "a lot"): "cannot unmarshal",
	} {
		env, _, stderr := around(nil)
		assert.NotEqual(t, exitOK, run(t.Context(), env, append([]string{"simulate"}, strings.Fields(args)...)), args)
		assert.Contains(t, stderr.String(), want)
	}
}
