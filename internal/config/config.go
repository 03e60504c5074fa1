// Package config turns a YAML file into a validated configuration, or into one error that names everything wrong with it, each
// by file, line, provider and key.
//
// Two rules hold throughout. Environment variables are expanded after the YAML is parsed, so that no value can inject YAML. And
// an error never repeats a value that might be a key pasted into the wrong field.
package config

import (
	"time"

	"github.com/keybroker/keybroker/internal/secret"
)

// Defaults of the server's settings.
const (
	DefaultListen       = "127.0.0.1:7070"
	DefaultDrainTimeout = 10 * time.Second

	DefaultMaxConnections = 20_000
	DefaultMaxUnproven    = 256
)

// Config is a whole configuration file. What [Load] returns is valid and has its plain defaults filled in; a setting whose
// absence means something is asked through its getter, such as [ProviderConfig.IsEnabled]. Treat it as read-only.
type Config struct {
	Server    ServerConfig     `yaml:"server" json:"server"`
	Access    AccessConfig     `yaml:"access,omitempty" json:"access,omitzero"`
	Audit     AuditConfig      `yaml:"audit,omitempty" json:"audit,omitzero"`
	Store     StoreConfig      `yaml:"store" json:"store"`
	Pooling   PoolingConfig    `yaml:"pooling" json:"pooling"` // Only Strategy, the default of all providers.
	Providers []ProviderConfig `yaml:"providers" json:"providers"`
}

// ServerConfig says where the broker listens and how it stops.
type ServerConfig struct {
	// Listen is the host:port of the service. It must be a loopback address if there is no TLS. Default [DefaultListen].
	Listen string `yaml:"listen" json:"listen"`
	// AdminListen is a second host:port, for operators alone; the same rule. Default empty: they are served on Listen, too.
	AdminListen string `yaml:"admin_listen" json:"admin_listen"`
	// MetricsListen is the host:port of metrics over HTTP, at /metrics; the same rule. On loopback they are in plaintext and for
	// everybody there; elsewhere by TLS and for whom a rule lets inspect. Default empty: nowhere.
	MetricsListen string `yaml:"metrics_listen" json:"metrics_listen"`
	// Plaintext serves without TLS, and so on loopback only. There is no default: it is that or TLS.
	Plaintext bool `yaml:"plaintext" json:"plaintext"`
	// TLS is nil with Plaintext.
	TLS *TLSConfig `yaml:"tls,omitempty" json:"tls,omitempty"`
	// MaxConnections bounds those that are open at one time, on all listeners. Default [DefaultMaxConnections].
	MaxConnections int `yaml:"max_connections" json:"max_connections"`
	// MaxUnproven bounds, for each address they come from, those that have not proved who they are. Behind a balancer that
	// address may be one for all. Default [DefaultMaxUnproven].
	MaxUnproven int `yaml:"max_unproven_connections" json:"max_unproven_connections"`
	// DrainTimeout is how long a graceful stop may take; 0 stops at once. Default [DefaultDrainTimeout].
	DrainTimeout time.Duration `yaml:"drain_timeout" json:"drain_timeout"`
}

// The kinds of stores.
const (
	StoreBolt   = "bolt"
	StoreMemory = "memory"
)

// DefaultStorePath is where state is kept if the file does not say.
const DefaultStorePath = "keybroker.db"

// StoreConfig says where the broker keeps what must outlive it: what is used of limits, what is out of use, and until when. No keys.
type StoreConfig struct {
	// Type is bolt, a file, or memory: then a restart forgets, and limits count as unused. Default bolt.
	Type string `yaml:"type" json:"type"`
	// Path of the file; relative to the configuration file's folder. Default [DefaultStorePath].
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
}

// ProviderConfig is one provider and its keys: a pool, and further ones over the same keys if need be.
type ProviderConfig struct {
	Name         string        `yaml:"name" json:"name"`                             // The pool's name. Required, unique.
	Type         string        `yaml:"type" json:"type"`                             // The provider's dialect. Required, one of [Options.Types].
	BaseURL      string        `yaml:"base_url,omitempty" json:"base_url,omitempty"` // Default: the type's own.
	Enabled      *bool         `yaml:"enabled" json:"enabled"`                       // See IsEnabled.
	Models       []string      `yaml:"models,omitempty" json:"models,omitempty"`     // What the pool serves. Default: every model.
	FlatLimits   bool          `yaml:"flat_limits" json:"flat_limits"`               // One set of limits for all models together. Default: each model has its own.
	Pooling      PoolingConfig `yaml:"pooling" json:"pooling"`
	Fallback     []string      `yaml:"fallback,omitempty" json:"fallback,omitempty"` // Pools to try when this one is exhausted, in order. They exist, but may be disabled.
	Lease        LeaseConfig   `yaml:"lease" json:"lease"`
	ModelClasses []ClassConfig `yaml:"classes,omitempty" json:"classes,omitempty"`
	Groups       []GroupConfig `yaml:"groups,omitempty" json:"groups,omitempty"`
	Keys         []KeyConfig   `yaml:"keys" json:"keys"`
	Pools        []PoolConfig  `yaml:"pools,omitempty" json:"pools,omitempty"` // Further pools over the same keys and limits.
}

// PoolConfig is a further pool of a provider. What it leases counts against the same limits as what the provider's own pool leases.
type PoolConfig struct {
	Name     string        `yaml:"name" json:"name"`                         // Required, unique among all pools.
	Groups   []string      `yaml:"groups,omitempty" json:"groups,omitempty"` // Quota groups, or keys without a group, that it draws on. Default: all.
	Models   []string      `yaml:"models,omitempty" json:"models,omitempty"` // What it serves. Default: what the provider serves.
	Pooling  PoolingConfig `yaml:"pooling" json:"pooling"`                   // Default: the provider's.
	Fallback []string      `yaml:"fallback,omitempty" json:"fallback,omitempty"`
	Lease    LeaseConfig   `yaml:"lease" json:"lease"` // Default: the provider's.
}

// PoolingConfig says how one of a pool's keys is chosen.
type PoolingConfig struct {
	Strategy string `yaml:"strategy,omitempty" json:"strategy,omitempty"` // See [ProviderConfig.GetEffectiveStrategy].
	Enabled  *bool  `yaml:"enabled,omitempty" json:"enabled,omitempty"`   // See [ProviderConfig.IsPoolingEnabled].
}

// LeaseConfig holds the times of a lease. StartWithin ≤ DefaultTTL ≤ MaxTTL ≤ 24 h.
type LeaseConfig struct {
	StartWithin time.Duration `yaml:"start_within" json:"start_within"` // The request must be sent by then. Default 2 s.
	DefaultTTL  time.Duration `yaml:"default_ttl" json:"default_ttl"`   // How long a lease lives if the caller asks for nothing else. Default 2 min.
	MaxTTL      time.Duration `yaml:"max_ttl" json:"max_ttl"`           // The longest life a caller gets. Default 10 min.
	MaxWait     time.Duration `yaml:"max_wait" json:"max_wait"`         // The longest wait for capacity; 0 never waits. Default 30 s.
}

// DefaultLease returns the times of a lease where the file gives none.
func DefaultLease() LeaseConfig {
	return LeaseConfig{StartWithin: 2 * time.Second, DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: 30 * time.Second}
}

// ClassConfig is a model class: models that share one limit. The limits apply to each quota group.
type ClassConfig struct {
	Name   string   `yaml:"name" json:"name"`     // Required, unique in the provider.
	Models []string `yaml:"models" json:"models"` // At least one; a model is in one class at most.
	Limits `yaml:",inline"`
}

// GroupConfig is a quota group: the organisation, project or account whose limits these are.
type GroupConfig struct {
	Name   string `yaml:"name" json:"name"` // Required, unique in the provider.
	Limits `yaml:",inline"`
}

// KeyConfig is one key of a provider.
type KeyConfig struct {
	// Key is the value, expanded. It is empty if the provider is disabled.
	Key secret.Value `yaml:"key" json:"key"`
	// KeyFile is the path that Key was read from, as the file gives it: relative to the configuration file's folder.
	KeyFile string `yaml:"key_file,omitempty" json:"key_file,omitempty"`
	// KeyExec is the command, with its arguments, whose output Key was read from. It is run without a shell, in the configuration
	// file's folder, and has 10 s.
	KeyExec []string `yaml:"key_exec,omitempty" json:"key_exec,omitempty"`
	// ID is the key's name, unique in the provider. Default: the name of the variable where the value is just ${NAME}, or the
	// base name of KeyFile, or else key-N, counted from 1. With KeyExec it must be given.
	ID string `yaml:"id" json:"id"`
	// Group names the quota group that the key's limits belong to. Default empty: a group of its own.
	Group string `yaml:"group,omitempty" json:"group,omitempty"`
	// Priority is the key's tier: a lower one is used when no higher one has capacity. See GetPriority.
	Priority *int `yaml:"priority" json:"priority"`
	// Weight is the key's share under the weighted strategy. Default 1, and 0 means 1: see GetWeight.
	Weight int `yaml:"weight" json:"weight"`
	Limits `yaml:",inline"`
}
