package provider

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSpan(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"174ms.":                           174 * time.Millisecond,
		"18.642s. visit":                   18642 * time.Millisecond,
		"9m38.016s. need more":             9*time.Minute + 38016*time.Millisecond,
		"37 seconds. please":               37 * time.Second,
		"1 hour 30 minutes":                90 * time.Minute,
		"1h0m0s":                           time.Hour,
		"2 days":                           48 * time.Hour,
		"0s":                               0,
		"58.217843437s.":                   58217843437,
		"999999999999 days 5s":             LongestWait,
		"1e5s":                             -1, // an exponent is nobody's way to write
		"37":                               -1,
		"":                                 -1,
		"a few seconds":                    -1,
		"-5s":                              -1,
		"1.2.3s":                           -1,
		"5 parsecs":                        -1,
		"5s or 3 parsecs":                  5 * time.Second,
		strings.Repeat("9", 400) + " days": LongestWait,
	} {
		d, ok := span(s)
		assert.Equal(t, want >= 0, ok, s)
		assert.Equal(t, max(want, 0), bounded(d), s)
	}
}

func TestWhole(t *testing.T) {
	for v, want := range map[string]int64{"0": 0, " 12 ": 12, "30,000": 30000, "1,000,000": 1e6, "999,999": 999999, "-4": -4} {
		n, ok := whole(v)
		assert.True(t, ok, v)
		assert.Equal(t, want, n, v)
	}
	for _, v := range []string{"", "1, 000", "1000,000", "1,00", ",000", "1,", "1,000,", "1,0000", "1,-00", "1.0", "0x1", "1_000", "١"} {
		n, ok := whole(v)
		assert.False(t, ok, "%q is %d", v, n)
	}
}

func TestInferred(t *testing.T) {
	for _, c := range []struct {
		reset            time.Duration
		limit, remaining int64
		want             time.Duration
	}{
		{12 * time.Millisecond, 5000, 4999, time.Minute}, // recorded
		{9 * time.Millisecond, 160000, 159976, time.Minute},
		{179560 * time.Millisecond, 14400, 14370, day},
		{6 * time.Minute, 150000, 149984, 0}, // documented, and nonsense
		{72 * time.Second, 1, 0, time.Minute},
		{73 * time.Second, 1, 0, 0},
		{48 * time.Second, 1, 0, time.Minute},
		{47 * time.Second, 1, 0, 0},
		{LongestWait, 1 << 62, 1<<62 - 1, 0},
		{0, 10, 0, 0},
		{time.Minute, 10, 10, 0},
		{time.Minute, 10, Unknown, 0},
		{time.Minute, Unknown, 5, 0},
		{Unknown, 10, 5, 0},
	} {
		assert.Equal(t, c.want, inferred(c.reset, c.limit, c.remaining), "%v", c)
	}
}

func TestParseField(t *testing.T) {
	for s, want := range map[string]int{
		`"a"`: 1, `"a";q=1;w=2 ,  "b"`: 2, `10, 10;w=1;burst=1000`: 2, `a;b;c="x";d=?1;e=:aGk=:;f=1.5;g=-7`: 1, `"\"\\"`: 1, `1; w=2`: 1,
		``: 0, `,`: 0, `"a",`: 0, `"a`: 0, `"a" "b"`: 0, `"a";`: 0, `"a";Q=1`: 0, `"a";q=`: 0, `"\x"`: 0, "\"\x01\"": 0, `"ä"`: 0,
		`:aGk=`: 0, `?2`: 0, `1.`: 0, `1.2345`: 0, `-`: 0, `1234567890123456`: 0, `("a" "b")`: 0, `@1`: 0, `%"x"`: 0, `default q=1`: 0,
	} {
		assert.Len(t, parseField(s, false), want, s)
	}
	assert.Len(t, parseField("limit=10, remaining=9;x, reset=-1", true), 3)
	assert.Empty(t, parseField("limit=10, remaining", true))
}

func FuzzField(f *testing.F) {
	for _, s := range []string{`"burst";q=100;w=60,"daily";q=1000;w=86400`, `"a";r=0;t=12;pk=:cHsdsRa894==:`, `limit=10, remaining=9, reset=50`,
		`10, 10;w=1;burst=1000, 1000;w=3600`, `"\"";q=-1`, `a;b=?0;c=1.5`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, dictionary := range []bool{false, true} {
			for _, m := range parseField(s, dictionary) {
				n, ok := m.param("q", "w", "r", "t")
				require.True(t, n >= 0 || n == Unknown)
				require.True(t, ok || n == Unknown)
				require.LessOrEqual(t, n, int64(999_999_999_999_999))
			}
		}
		if parseField(s, false) != nil {
			require.NotNil(t, parseField(s+` , "more";q=1`, false), "a list goes on")
			require.Nil(t, parseField(s+` ;`, false), "and does not end in a semicolon")
		}
	})
}

func FuzzReset(f *testing.F) {
	for _, s := range []string{"1s", "6m0s", "33011.382867097855", "2026-01-15T12:00:01Z", "1768480200", "1768480200000", "1e300", "-0", "0",
		"Thu, 15 Jan 2026 12:00:09 GMT", "Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)", "2562047h47m16.854775807s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, h := range []http.Header{nil, {"Date": {"Thu, 15 Jan 2026 12:00:00 GMT"}}, {"Date": {s}}} {
			for k := anyFormat; k <= monthEnd; k++ {
				a := answer{Response: &Response{Header: h}, dialect: &generic}
				d := a.reset(k, s)
				require.True(t, d == Unknown || d >= 0 && d <= LongestWait, "%v", d)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, s := range []string{"please try again in 9m38.016s. need", "please retry after 86400 seconds", "regain access on 2026-09-01 at 00:00 utc",
		"in organization `org_x` on tokens per day (tpd): limit 100000, used 97050, requested 3619", "of 20,000 input tokens per minute",
		"limited to 40 api calls / minute", "limit limit limit: 5", "exceeded token rate limit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := waitIn(s); ok {
			require.True(t, d >= 0 && d <= LongestWait, "%v", d)
		}
		regained(s)
		require.Contains(t, s, organizationIn(s))
		if r := limitIn(s); r != nil {
			require.True(t, r.Length >= 0 && r.Length <= day)
			require.GreaterOrEqual(t, min(r.Limit, r.Used, r.Requested), int64(Unknown))
		}
	})
}
