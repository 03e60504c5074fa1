package provider

import (
	"net/http"
	"strings"
)

// The texts that a body may hold. Those of an error object come first: where
// there is one of them, there is an error.
const (
	errorText = numCounts + iota // of which only the presence is of interest
	errorItself
	errorKind
	errorCode
	errorStatus
	errorMessage
	errorDetail
	errorReason
	errorSource
	errorDelay
	errorHeader // the name is the key
	violationMetric
	violationID
	violationModel
	violationValue
	bodyObject
	bodyKind
	bodyErrorKind
	bodyCode
	bodyMessage
	bodyExplanation
	bodyTitle
	bodyPolicy
	finishReason
	exceptionKind // of a frame's header: no path leads to it
	exceptionCode
	exceptionMessage
	numLeaves
	aDocument
	aViolation
)

// failurePaths are where errors are described, and ends.
var failurePaths = []path{
	{"type", bodyKind},
	{"object", bodyObject},
	{"code", bodyCode},
	{"message", bodyMessage},
	{"Message", bodyMessage}, // Amazon's, now and then
	{"detail", bodyExplanation},
	{"title", bodyTitle},
	{"error_type", bodyErrorKind},
	{"violated-policies[]", bodyPolicy},

	{"error", errorItself},
	{"error[]", errorText},
	{"error.*", errorText},
	{"error.type", errorKind},
	{"error.code", errorCode},
	{"error.status", errorStatus},
	{"error.message", errorMessage},
	{"error.details.error_code", errorDetail},
	{"error.details[].error_code", errorDetail},
	{"error.details[].reason", errorReason},
	{"error.details[].retryDelay", errorDelay},
	{"error.details[].violations[]", aViolation},
	{"error.details[].violations[].quotaMetric", violationMetric},
	{"error.details[].violations[].quotaId", violationID},
	{"error.details[].violations[].quotaDimensions.model", violationModel},
	{"error.details[].violations[].quotaValue", violationValue},
	{"error.errors[].reason", errorReason},
	{"error.metadata.reason", errorReason},
	{"error.metadata.limit_source", errorSource},
	{"error.metadata.headers.*", errorHeader},
	{"error.metadata.headers.*[]", errorHeader},

	{"response.error", errorItself},
	{"response.error.*", errorText},
	{"response.error.code", errorCode},
	{"response.error.message", errorMessage},

	{"candidates[].finishReason", finishReason},
	{"promptFeedback.blockReason", finishReason},
}

func (l leaf) isText() bool  { return l >= numCounts && l < numLeaves }
func (l leaf) ofError() bool { return l >= errorText && l < bodyObject }

// isMessage tells of the texts that are for people: they may be cut.
func (l leaf) isMessage() bool {
	switch l {
	case errorItself, errorMessage, bodyMessage, bodyExplanation, bodyTitle, exceptionMessage:
		return true
	}
	return false
}

// facts are what a body has said so far. The first error is kept, as are the
// last counts.
type facts struct {
	counts counts
	said   bool // the provider has said that it is done
	whole  bool // the last JSON document is complete

	texts      [numLeaves - numCounts]string
	violations []violation
	violated   []string
	header     http.Header
	headers    int
	spent      int  // bytes of JSON that all these come to
	fresh      bool // the next fact of a violation belongs to a new one
	found      bool // an error, in this document
	kept       bool // it is complete
	stale      bool // the texts are of an earlier event
}

// The facts come to less than maxFacts bytes of JSON, names included.
const (
	maxFacts   = 7 << 10
	maxText    = 1 << 10
	maxMessage = 4 << 10
	maxList    = 16 // entries
	nameCost   = 48 // of a text's name, and what else surrounds it
)

// begin and finish enclose a JSON document, or an array of them; enter and leave
// an object in it that has a meaning as such.
func (f *facts) begin()  { f.whole = false }
func (f *facts) finish() { f.whole = true }

func (f *facts) enter(l leaf) {
	switch {
	case f.kept:
	case l == aDocument:
		f.forget()
	case l == aViolation:
		f.fresh = true
	case l == errorText:
		f.found = true
	}
}

func (f *facts) leave() { f.kept = f.found }

// over ends an event of a stream. Its texts stay until the next one has some.
func (f *facts) over() { f.kept, f.stale = f.found, true }

// fail says that the event as such is an error.
func (f *facts) fail() {
	if f.stale && !f.kept {
		f.forget()
	}
	f.found = true
}

// forget drops the texts of an earlier document.
func (f *facts) forget() {
	clear(f.texts[:exceptionKind-numCounts])
	f.violations, f.violated, f.header = nil, nil, nil
	f.headers, f.spent, f.stale = 0, 0, false
}

// scalar takes a number or a word as it is written.
func (f *facts) scalar(l leaf, key, raw []byte) {
	switch number := raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'; {
	case l < numCounts:
		f.counts.set(l, raw)
	case number && l.isText() && l != errorItself:
		f.text(l, key, raw, false)
	case l.ofError() && (number && string(raw) != "0" || string(raw) == "true"):
		f.found = true
	}
}

// text takes what stands between the quotes of a string, or the beginning of it.
func (f *facts) text(l leaf, key, raw []byte, cut bool) {
	if len(raw) == 0 || f.kept && l != finishReason {
		return
	}
	if l.ofError() || (l == bodyKind || l == bodyObject) && string(raw) == "error" {
		f.found = true
	}
	switch l {
	case errorText, bodyObject:
	case finishReason:
		f.said = true
	default:
		cost := nameCost
		if l == errorHeader {
			cost += len(key)
		}
		if text, ok := f.afford(l, plain(raw), cut, cost); ok {
			f.put(l, key, text)
		}
	}
}

// afford gives as much of a text as there is room for, beside the cost of its
// name: all or, of a message, a part.
func (f *facts) afford(l leaf, text string, cut bool, cost int) (string, bool) {
	most := maxText
	if l.isMessage() {
		most = maxMessage
	}
	text, size, whole := clip(text, min(most, maxFacts-f.spent-cost))
	if !whole || cut {
		text = text[:strings.LastIndexByte(text, ' ')+1] // lest a number is cut in two
		if !l.isMessage() {
			return "", false
		}
	}
	f.spent += size + cost
	return text, text != ""
}

func (f *facts) put(l leaf, key []byte, text string) {
	switch l {
	case violationMetric, violationID, violationModel, violationValue:
		f.violate(l, text)
	case bodyPolicy:
		if len(f.violated) < maxList {
			f.violated = append(f.violated, text)
		}
	case errorHeader:
		f.addHeader(key, text)
	case errorReason:
		if f.texts[l-numCounts] == "" {
			f.texts[l-numCounts] = text
		}
	case errorItself:
		f.texts[errorMessage-numCounts] = text
	default:
		f.texts[l-numCounts] = text
	}
}

func (f *facts) violate(l leaf, text string) {
	if f.fresh && len(f.violations) < maxList {
		f.violations = append(f.violations, violation{})
		f.fresh = false
	}
	if f.fresh || len(f.violations) == 0 {
		return
	}
	v := &f.violations[len(f.violations)-1]
	switch l {
	case violationMetric:
		v.metric = text
	case violationID:
		v.id = text
	case violationModel:
		v.model = text
	case violationValue:
		v.value = text
	}
}

func (f *facts) addHeader(key []byte, text string) {
	name := http.CanonicalHeaderKey(string(key))
	if f.headers == maxList || len(key) > maxKey || strings.Trim(name, headerBytes) != "" {
		return
	}
	if f.header == nil {
		f.header = http.Header{}
	}
	f.header[name] = append(f.header[name], text)
	f.headers++
}

// headerBytes are the bytes of which the names of headers consist in practice.
const headerBytes = "-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// failure puts the texts in their order of precedence.
func (f *facts) failure() failure {
	the := func(ls ...leaf) string {
		for _, l := range ls {
			if s := f.texts[l-numCounts]; s != "" {
				return s
			}
		}
		return ""
	}
	return failure{
		found:      f.found,
		kind:       the(errorKind, bodyErrorKind, exceptionKind, bodyKind),
		code:       the(errorCode, exceptionCode, bodyCode),
		status:     the(errorStatus),
		message:    the(errorMessage, exceptionMessage, bodyMessage, bodyExplanation, bodyTitle),
		errorCode:  the(errorDetail),
		reason:     the(errorReason),
		source:     the(errorSource),
		delay:      the(errorDelay),
		violations: f.violations,
		violated:   f.violated,
		header:     f.header,
	}
}
