package config

import (
	"errors"
	"strings"
	"unicode"
)

// The priorities of a key.
const (
	PriorityLow    = 0
	PriorityNormal = 1
	PriorityHigh   = 2
)

const (
	maxLimit  = 1_000_000_000_000_000 // Far above any provider's, and far from overflow when amounts are added up.
	maxWeight = 1_000_000
)

// Limits are what a provider allows. Every limit is optional: 0 means that none is configured, so that the broker learns it from
// the provider's headers if it can, and counts nothing otherwise.
type Limits struct {
	RPMLimit       int64 `yaml:"rpm_limit,omitempty" json:"rpm_limit,omitempty"`             // Requests a minute.
	ITPMLimit      int64 `yaml:"itpm_limit,omitempty" json:"itpm_limit,omitempty"`           // Input tokens a minute.
	OTPMLimit      int64 `yaml:"otpm_limit,omitempty" json:"otpm_limit,omitempty"`           // Output tokens a minute.
	TPMLimit       int64 `yaml:"tpm_limit,omitempty" json:"tpm_limit,omitempty"`             // Tokens a minute, input and output together. See GetEffectiveTPM.
	RPDLimit       int64 `yaml:"rpd_limit,omitempty" json:"rpd_limit,omitempty"`             // Requests a day.
	TPDLimit       int64 `yaml:"tpd_limit,omitempty" json:"tpd_limit,omitempty"`             // Tokens a day, input and output together.
	MaxConcurrency int64 `yaml:"max_concurrency,omitempty" json:"max_concurrency,omitempty"` // Requests at the same time.
}

// GetEffectiveTPM returns the limits of input and output tokens a minute: ITPMLimit and OTPMLimit when either is set, else the
// deprecated TPMLimit in two halves, else 0, 0. An odd TPMLimit gives the odd token to the input.
//
// A provider that really has one combined token limit uses TPMLimit as it is, and not this split.
func (l Limits) GetEffectiveTPM() (itpm, otpm int64) {
	if l.ITPMLimit != 0 || l.OTPMLimit != 0 {
		return l.ITPMLimit, l.OTPMLimit
	}
	otpm = l.TPMLimit / 2
	return l.TPMLimit - otpm, otpm
}

// limit is one of the Limits, with its name in the file.
type limit struct {
	field string
	value *int64
}

// all lists the limits, so that reading and checking them cannot disagree.
func (l *Limits) all() []limit {
	return []limit{
		{"rpm_limit", &l.RPMLimit},
		{"itpm_limit", &l.ITPMLimit},
		{"otpm_limit", &l.OTPMLimit},
		{"tpm_limit", &l.TPMLimit},
		{"rpd_limit", &l.RPDLimit},
		{"tpd_limit", &l.TPDLimit},
		{"max_concurrency", &l.MaxConcurrency},
	}
}

// fault is what is wrong with one field.
type fault struct{ field, text string }

func (l *Limits) faults() (found []fault) {
	for _, limit := range l.all() {
		switch {
		case *limit.value < 0:
			found = append(found, fault{limit.field, limit.field + " is negative; use 0, or leave it out, for no limit"})
		case *limit.value > maxLimit:
			found = append(found, fault{limit.field, limit.field + " is above 10^15; use 0, or leave it out, for no limit"})
		}
	}
	return found
}

// GetPriority returns the key's tier. Default [PriorityNormal]: an explicit 0 is [PriorityLow].
func (k KeyConfig) GetPriority() int {
	if k.Priority == nil {
		return PriorityNormal
	}
	return *k.Priority
}

// GetWeight returns the key's share under the weighted strategy. Default 1.
func (k KeyConfig) GetWeight() int {
	if k.Weight == 0 {
		return 1
	}
	return k.Weight
}

// Validate returns everything that is wrong with the key by itself, one fault a line: an empty value, a priority outside 0–2, a
// weight or limit below 0 or absurdly high.
func (k KeyConfig) Validate() error {
	var errs []error
	for _, f := range k.faults() {
		errs = append(errs, errors.New(f.text))
	}
	return errors.Join(errs...)
}

func (k *KeyConfig) faults() (found []fault) {
	switch value := k.Key.Reveal(); {
	case strings.TrimSpace(value) == "":
		found = append(found, fault{"key", "key is empty; give a value, ${ENV_VAR}, key_file or key_exec"})
	case strings.TrimSpace(value) != value:
		found = append(found, fault{"key", "key begins or ends with white space; remove it"})
	case strings.ContainsFunc(value, unicode.IsControl):
		found = append(found, fault{"key", "key has a control character in it, such as a line break, which no header can carry; give the key alone"})
	}
	if p := k.GetPriority(); p < PriorityLow || p > PriorityHigh {
		found = append(found, fault{"priority", "priority is out of range; use 0 (low), 1 (normal) or 2 (high)"})
	}
	if k.Weight < 0 {
		found = append(found, fault{"weight", "weight is negative; use 1 or more"})
	} else if k.Weight > maxWeight {
		found = append(found, fault{"weight", "weight is above 1000000; weights only matter in proportion, so scale them down"})
	}
	return append(found, k.Limits.faults()...)
}
