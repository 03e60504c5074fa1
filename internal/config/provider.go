package config

// The strategies that choose among a pool's keys.
const (
	LeastLoaded = "least_loaded" // The key with the most capacity left. The default.
	RoundRobin  = "round_robin"  // Each key in turn.
	Random      = "random"       // Any key, all equally likely.
	Weighted    = "weighted"     // Any key, in proportion to its weight.
)

// Strategies lists every strategy, the default first.
func Strategies() []string { return []string{LeastLoaded, RoundRobin, Random, Weighted} }

// IsEnabled reports whether the provider is used at all. Default true.
func (p ProviderConfig) IsEnabled() bool { return p.Enabled == nil || *p.Enabled }

// GetEffectiveStrategy returns the provider's own strategy, or else globalDefault, or else [LeastLoaded].
func (p ProviderConfig) GetEffectiveStrategy(globalDefault string) string {
	switch {
	case p.Pooling.Strategy != "":
		return p.Pooling.Strategy
	case globalDefault != "":
		return globalDefault
	default:
		return LeastLoaded
	}
}

// IsPoolingEnabled reports whether all keys are used, rather than the first usable one alone: the explicit setting, or else
// whether there is more than one key.
func (p ProviderConfig) IsPoolingEnabled() bool { return p.Pooling.IsEnabled(len(p.Keys)) }

// IsEnabled reports whether all keys are used, and not the first usable one alone: the setting, or else whether there is more than
// one key.
func (p PoolingConfig) IsEnabled(keys int) bool {
	if p.Enabled != nil {
		return *p.Enabled
	}
	return keys > 1
}
