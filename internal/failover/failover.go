// Package failover says how long the client tries for another key after a refusal.
package failover

import "time"

// Time is how long the broker may take to hear of the refusal and to lease another key:
// there is an answer at hand, if not a good one. Only tests in real time change it, before
// there is a client, so that they need no machine of some speed.
var Time = time.Second
