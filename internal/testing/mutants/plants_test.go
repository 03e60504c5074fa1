//go:build long

// The planted bugs: each breaks one rule of the engine that keeps it from
// granting what the provider does not allow, or from keeping back what it does.
package mutants_test

// plant is one bug: in file, old (which occurs exactly once) becomes new, and
// test fails.
type plant struct {
	name     string
	rule     string // that it breaks
	pkg      string // whose file it is; pool if empty
	file     string
	old, new string
	test     string
	says     string // why, unless it is that the provider refuses
}

const (
	neverRefuses = "TestProviderNeverRefuses"
	overUse      = "TestOverUseDelaysGrants"
	headers      = "TestHeadersNeverLoosenBeyondTheTruth"
	refuses      = "the provider refuses"
	refunds      = "TestRefundsNeverExceedTheExactOnes"
	forgotten    = "TestNothingIsForgotten"
)

var plants = []plant{
	{
		name: "refund in full", rule: "a refund returns no more than is still there",
		file: "limit/token_bucket.go", test: neverRefuses,
		old: "credit = b.lows.take(since, min(credit, b.backlog(now)))",
		new: "credit = min(credit, b.backlog(now))",
	},
	{
		name: "refund forgets itself", rule: "what was refunded once is not there a second time",
		pkg: "pool/limit", file: "token_bucket.go", test: refunds,
		old: "s.at[i].backlog -= credit",
		new: "_ = i",
	},
	{
		name: "no envelope", rule: "charges fit a bucket smaller by what refills in delta",
		file: "limit/token_bucket.go", test: neverRefuses,
		old: "c, room := b.cost(n), b.terms.window-b.terms.delta",
		new: "c, room := b.cost(n), b.terms.window",
	},
	{
		name: "large ask does not wait", rule: "an ask above the envelope waits until the bucket was full for delta",
		file: "limit/token_bucket.go", test: neverRefuses,
		old: "return max(now, b.fullAt.Add(b.terms.delta))",
		new: "return max(now, b.fullAt)",
	},
	{
		name: "limit change keeps the time", rule: "when a limit changes, the amount used stays what it was",
		file: "limit/token_bucket.go", test: neverRefuses,
		old: "b.fullAt = now.Add(max(scale(since), min(scale(since+delta)-delta, all)))",
		new: "_, _, _, _ = scale, since, all, delta",
	},
	{
		name: "limit cut forgets delta", rule: "at a lower rate, what refilled in delta is worth more time",
		file: "limit/token_bucket.go", test: neverRefuses,
		old: "min(scale(since+delta)-delta, all))",
		new: "min(0*delta, all))",
	},
	{
		name: "lows merge upwards", rule: "when the stack of lows is full, it forgets on the safe side",
		pkg: "pool/limit", file: "token_bucket.go", test: refunds,
		old: "s.at[best].backlog = s.at[best-1].backlog",
		new: "s.at[best-1].backlog = s.at[best].backlog",
	},
	{
		name: "sliding forgets delta", rule: "a slice counts delta longer than the window",
		file: "limit/sliding_window.go", test: neverRefuses,
		old: "(t.window + t.delta + sliceCount - 1)",
		new: "(t.window + sliceCount - 1)",
	},
	{
		name: "sliding counts too few slices", rule: "a slice counts until all of it is out of the window",
		file: "limit/sliding_window.go", test: neverRefuses,
		old: "(t.window + t.delta + sliceCount - 1) / sliceCount",
		new: "(t.window + t.delta + sliceCount - 1) / (sliceCount + 1)",
	},
	{
		name: "sliding refunds twice", rule: "only what a slice still holds comes back",
		file: "limit/sliding_window.go", test: neverRefuses,
		old: "if i < w.oldest() {",
		new: "if i < w.oldest() { w.total = max(0, w.total-n)",
	},
	{
		name: "fixed without carry", rule: "what may arrive on either side of a reset counts on both",
		file: "limit/fixed_window.go", test: neverRefuses,
		old: "w.carry += n",
		new: "w.carry += 0",
	},
	{
		name: "settled output is not charged", rule: "what a report settles is charged",
		file: "lease.go", test: neverRefuses,
		old: "b.Charge(now, after-before)",
		new: "b.Charge(now, 0)",
	},
	{
		name: "partial report ends the hold", rule: "until the final report the rest stays held",
		file: "lease.go", test: neverRefuses,
		old: "if final && known {\n\t\t\t\tl.holding.drop(i)",
		new: "if known {\n\t\t\t\tl.holding.drop(i)",
	},
	{
		name: "expiry frees the unreported", rule: "what a lease never reported stays charged",
		file: "lease.go", test: neverRefuses,
		old: "\tfreed = l.chargeHeld(now, true)\n",
		new: "\tfor i, b := range l.buckets {\n\t\tif l.holding.has(i) && !b.Slots() {\n\t\t\tl.holding.drop(i)\n\t\t\tb.HoldOrphaned(-l.left(b.Dimension()))\n\t\t}\n\t}\n",
	},
	{
		name: "slot free before the end", rule: "a slot is taken until the lease ends",
		file: "lease.go", test: neverRefuses,
		old: "case b.Slots(): // a slot is free when the lease ends, not before",
		new: "case b.Slots() && l.holding.has(i):\n\t\t\tl.holding.drop(i)\n\t\t\tb.HoldOrphaned(-reserved)",
	},
	{
		name: "over-use dropped", rule: "what was used over the reservation is debt",
		file: "lease.go", test: overUse,
		old: "b.Charge(now, after-max(before, reserved))",
		new: "b.Charge(now, 0)",
	},
	{
		name: "over-use of held amounts dropped", rule: "what was used over the hold is debt",
		file: "lease.go", test: overUse,
		old: "b.Charge(now, after-before)",
		new: "b.Charge(now, min(after, reserved)-min(before, reserved))",
	},
	{
		name: "debt is at most the limit", rule: "debt is never dropped",
		file: "limit/token_bucket.go", test: overUse,
		old: "now.Add(Longest)",
		new: "now.Add(b.terms.window)",
	},
	{
		name: "late reports are not charged", rule: "debt is never dropped, however late it is told",
		file: "report.go", test: "TestLateOverUseIsCharged", says: "the reservation has refilled",
		old: "\tfreed = l.settle(now, r.used, r.final) || freed\n",
		new: "\tfreed = !l.lapsed && l.settle(now, r.used, r.final) || freed\n",
	},
	{
		name: "cut does not stop a raise", rule: "what was granted before a cut does not undo it",
		file: "dispute.go", test: "TestCutIsNotUndoneByOlderAnswers", says: "in the hands of",
		old: "case l.granted < b.lowered.at:",
		new: "case false:",
	},
	{
		name: "one holder raises", rule: "a raise takes two holders if there are",
		file: "dispute.go", test: "TestRaiseTakesTwoHoldersIfThereAre", says: "the other has not said so",
		old: " || b.raise.holder == holder && !sole",
		new: "",
	},
	{
		name: "reservation of the account only", rule: "a reservation covers the limits of a single key",
		file: "seat.go", test: "TestReservationCoversTheLimitsOfASingleKey", says: "as if it were alone",
		old: " || of.keyReserved(k, c)",
		new: "",
	},
	{
		name: "poll takes the reservation", rule: "who does not wait gets only what delays nobody",
		file: "acquire.go", test: "TestPollDoesNotTakeTheReservation", says: "not served by",
		old: "\tn, ok := s.run(ch)\n\tif !ok {",
		new: "\ts.reservations = nil\n\tn, ok := s.run(ch)\n\tif !ok {",
	},
	{
		name: "reservations kept by nobody", rule: "a reservation ends with whoever has it",
		file: "queue.go", test: "TestNobodyKeepsAReservation", says: "all keys exhausted",
		old: "q.had = w.choice.endReservations()",
		new: "",
	},
	{
		name: "reservations remembered", rule: "what is known because of reservations is known as long as they last",
		file: "tier.go", test: "TestNobodyKeepsAReservation", says: "all keys exhausted",
		old: "t.negative[i] = negative{}",
		new: "",
	},
	{
		name: "a reservation of everything", rule: "a holder has one reservation, however many it has in line",
		file: "reservation.go", test: "TestOneHolderHasOneReservation", says: "two in each of the others",
		old: "if before < Never || o.until <= now.Add(longBefore) {\n\t\t\t\treturn\n\t\t\t}\n\t\t\tbefore = o.until.Add(-longBefore)",
		new: "_ = o",
	},
	{
		name: "short answers speak for long ones", rule: "answers teach something of asks of their size",
		file: "expect.go", test: "TestOutputIsWhatAnswersUse", says: "who wants a longer answer may get one",
		old: "uint8(bits.Len64(uint64(max(most, 0))))",
		new: "uint8(min(1, bits.Len64(uint64(max(most, 0)))))",
	},
	{
		name: "over-use is free", rule: "use beyond what was given moves back in line",
		file: "report.go", test: "TestMoreThanExpectedIsPaidForInLine", says: "is not less than or equal to",
		old: "if more := l.overuse() - before; more > 0 {",
		new: "if more := 0 * before; more > 0 {",
	},
	{
		name: "over-use is a turn", rule: "what one owes costs nobody else a place",
		file: "turn.go", test: "TestOverUseOfOneIsPaidForByNobodyElse", says: "Relative error is too high",
		old: "\tts.moveBack(t, part)\n\tts.passed(min(part, given))",
		new: "\tts.now = max(ts.now, ts.moveBack(t, part))\n\tts.passed(min(part, given))",
	},
	{
		name: "old statements settle disputes", rule: "only what was granted since contradicts a statement, or confirms it",
		file: "dispute.go", test: "TestOldStatementsSettleNothing", says: "all keys exhausted",
		old: "d.contradicted = true",
		new: "d.since = now.Add(-secondOpinion)",
	},
	{
		name: "likely refusals keep the headroom", rule: "headroom wears off unless it grows",
		file: "limit/headroom.go", test: "TestLikelyRefusalsLetItWearOff", says: "a sixteenth at most",
		old: "b.headroom = headroom{n, now}\n\t}",
		new: "b.headroom.amount = n\n\t}\n\tb.headroom.at = now",
	},
	{
		name: "shared slot freed in one class", rule: "what one class frees of a shared limit, all have",
		file: "class.go", test: "TestWhateverHasRoomIsGranted", says: "there is room: true",
		old: "if !a.group.shares && !a.group.crossed {",
		new: "if true {",
	},
	{
		name: "classes are served once", rule: "a probe of one key leaves the next to the others",
		file: "queue.go", test: "TestWithoutPoolingAProbeServesTheOtherClass", says: "elements differ",
		old: "again = again || len(dom.served) > n",
		new: "_ = n",
	},
	{
		name: "header blind to what is on its way", rule: "what was granted since may not have been counted",
		file: "limit/token_bucket.go", test: headers, says: refuses,
		old: "b.cost(r.most+h.total-s.before)",
		new: "b.cost(r.most)",
	},
	{
		name: "header forgets delta", rule: "what was granted up to delta before may not have been counted",
		file: "limit/token_bucket.go", test: headers, says: refuses,
		old: "delta := Time(r.delta)\n\tknown := h.spans",
		new: "delta := Time(0)\n\tknown := h.spans",
	},
	{
		name: "header taken for news", rule: "a header may speak of any moment since its lease's grant",
		file: "limit/token_bucket.go", test: headers, says: refuses,
		old: "known := h.spans(r.since-delta, now-delta,",
		new: "known := h.spans(now-delta, now-delta,",
	},
	{
		name: "rounding taken for exact", rule: "a rounded count is taken at its worst",
		file: "limit/header.go", test: headers, says: refuses,
		old: "most:  used + w.Rounding/2,",
		new: "most:  used,",
	},
	{
		name: "given back twice", rule: "what a header gave back, no refund gives again",
		file: "limit/bucket.go", test: headers, says: refuses,
		old: "if granted < b.loosenedAt {",
		new: "if false {",
	},
	{
		name: "sliding loosened at its end", rule: "a header takes from the oldest slices",
		file: "limit/sliding_window.go", test: headers, says: refuses,
		old: "for i := w.oldest(); w.total > most; i++ {",
		new: "for i := w.last; w.total > most; i-- {",
	},
	{
		name: "sliding header blind to what is on its way", rule: "what was granted since may not have been counted",
		file: "limit/sliding_window.go", test: headers, says: refuses,
		old: "most := r.most + later\n\twindow",
		new: "most := r.most + 0*later\n\twindow",
	},
	{
		name: "fixed header blind to what is on its way", rule: "what was granted since may not have been counted",
		file: "limit/fixed_window.go", test: headers, says: refuses,
		old: "switch most := r.most + later; {",
		new: "switch most := r.most + 0*later; {",
	},
	{
		name: "history forgets", rule: "what the history has forgotten it answers on the safe side",
		file: "limit/history.go", test: headers, says: refuses,
		old: "f(span{end, m.before})",
		new: "f(span{end, h.total})",
	},
	{
		name: "full after a crash", rule: "after a crash, short windows are empty",
		file: "recover.go", test: forgotten,
		old: "b.Exhaust(x.until)",
		new: "_ = b",
	},
	{
		name: "empty without the overlap", rule: "they are empty as of when nobody else grants any more",
		file: "recover.go", test: "TestShortWindowsAreEmptyAfterACrash", says: "the other's time",
		old: "b.Exhaust(x.until)",
		new: "b.Exhaust(x.now)",
	},
	{
		name: "restored without what is ahead", rule: "recovery starts at the mark",
		file: "limit/snapshot.go", test: forgotten,
		old: "b.counter.charge(until, ahead)",
		new: "_ = ahead",
	},
	{
		name: "orphaned holds freed at once", rule: "slots count as taken until the longest ttl could have ended",
		file: "recover.go", test: forgotten,
		old: "x.until.Add(b.HeldAtMost(x.ttl))",
		new: "x.now",
	},
	{
		name: "new class given out unwritten", rule: "of a class that is not written down nothing is given out",
		file: "acquire.go", test: forgotten,
		old: " && (!dom.keeps || a.saved && k.saved)",
		new: "",
	},
	{
		name: "new key given out unwritten", rule: "of a key that is not written down nothing is given out",
		file: "acquire.go", test: "TestANewKeyIsOnRecordBeforeItIsUsed", says: "Should be false",
		old: "a.saved && k.saved",
		new: "a.class.saved",
	},
	{
		name: "forgotten after a failed save", rule: "what a save that failed had is in the next one",
		file: "changes.go", test: forgotten,
		old: "\tfor _, u := range c.units {\n\t\tt := u.tracking()\n",
		new: "\tfor _, u := range c.saving {\n\t\tu.tracking().saving = false\n\t}\n\tc.saving = nil\n\tfor _, u := range c.units {\n\t\tt := u.tracking()\n",
	},
	{
		name: "changes during a save forgotten", rule: "what changes while a save is on its way is in the next one",
		file: "changes.go", test: forgotten,
		old: "\t\tu.recorded((*bucket).saved)\n",
		new: "\t\tu.recorded((*bucket).saved)\n\t}\n\tfor _, u := range c.units {\n\t\tu.tracking().changed = false\n\t}\n\tc.units = nil\n\tif false {\n",
	},
	{
		name: "charges that nobody notes", rule: "what is charged beyond the mark is in the next record",
		file: "limit/mark.go", test: forgotten,
		old: "\tif n > 0 && k.left < b.step()/2 || k.left < 0 {\n\t\tk.changed()\n\t}\n",
		new: "",
	},
	{
		name: "time passes twice", rule: "an older part of a record ages by the time that has passed",
		pkg: "pool/limit", file: "snapshot.go", test: "TestSnapshotsAge", says: "later",
		old: "s.Backlog-d)",
		new: "s.Backlog-2*d)",
	},
	{
		name: "slices age too fast", rule: "a slice counts until all of it is out of the window, also on record",
		pkg: "pool/limit", file: "snapshot.go", test: "TestSnapshotsAge", says: "later",
		old: "s.slide(int64(to)/int64(s.Slice) - int64(from)/int64(s.Slice))",
		new: "s.slide(int64(to)/int64(s.Slice) - int64(from)/int64(s.Slice) + 1)",
	},
	{
		name: "class forgotten while it is used", rule: "a class is forgotten when nothing of it counts",
		file: "forget.go", test: "TestWhatKeepsAClass", says: "should have 2 item(s)",
		old: "c.leases > 0 || ",
		new: "",
	},
	{
		name: "class forgotten within its window", rule: "a class is forgotten when its longest window has passed",
		file: "forget.go", test: "TestWhatKeepsAClass", says: "should have 2 item(s)",
		old: " || since.Add(b.Window()) > now",
		new: "",
	},
	{
		name: "a class of its own, used as another", rule: "a model that may have been used in a class stays there",
		file: "domain.go", test: "TestAModelLeavesTheOthersWithTheirClass", says: `"model 299"`,
		old: "dom.classes[otherModels] != nil || ",
		new: "",
	},
	{
		name: "peaks that nobody notes", rule: "a record has the most that was held",
		pkg: "pool/limit", file: "mark.go", test: "TestPeakOfWhatIsHeld", says: "step",
		old: "k.after, k.peak = b.held, max(k.peak, b.held)",
		new: "k.after, k.peak = b.held, b.held",
	},
	{
		name: "parts of a joined chunk lost", rule: "what counts of a chunk that is dropped is written again",
		pkg: "internal/record", file: "log.go", test: "TestLogSaysWhatIsLatest", says: "Not equal",
		old: "l.latest[p.id].chunk == c && !written[p.id]",
		new: "l.latest[p.id].chunk == c && !written[p.id] && p.kind != account",
	},
	{
		name: "the dead come back", rule: "of a class that was forgotten nothing counts",
		pkg: "internal/record", file: "decode.go", test: "TestLogSaysWhatIsLatest", says: "Not equal",
		old: "return ok && !d.parts[c].gone",
		new: "_, _ = c, ok\n\treturn true",
	},
	{
		name: "a save without a look", rule: "after an unknown outcome the owner reads before it saves again",
		pkg: "internal/broker", file: "keeper.go", test: "TestALateSaveOverwritesNothing", says: "the record has changed",
		old: "\t\tk.known = false\n",
		new: "",
	},
	{
		name: "a manifest of chunks that are not there", rule: "a manifest names the chunks that were written with it",
		pkg: "internal/store/bolt", file: "schema.go", test: "TestDurable", says: "are not those that its manifest names",
		old: "\t\tif err := chunks.Put(chunkKey(name, id), c.data); err != nil {",
		new: "\t\tif len(c.data) > 1<<17 {\n\t\t\tcontinue\n\t\t}\n\t\tif err := chunks.Put(chunkKey(name, id), c.data); err != nil {",
	},
	{
		name: "a late save overwrites", rule: "a save changes the version that it has seen, and no other",
		pkg: "internal/store/bolt", file: "writer.go", test: "TestConformance", says: "the record has changed",
		old: "case r.seen != e.version:",
		new: "case false:",
	},
	{
		name: "write-ahead mark blind to holds", rule: "what is held is charged against the mark",
		file: "limit/bucket.go", test: "TestHeldAmountsAreWrittenAheadToo", says: "what is held counts",
		old: "b.held += n\n\tb.spend(n)",
		new: "b.held += n",
	},
	{
		name: "write-ahead mark refunded in full", rule: "the mark moves by what came back, not by what was asked for",
		file: "limit/bucket.go", test: "TestRefundsCoverWhatCameBack", says: "the record does not know",
		old: "b.spend(b.counter.used(now) - used)",
		new: "_ = used\n\tb.spend(-n)",
	},
	{
		name: "debt forgotten", rule: "debt deeper than empty is written down",
		file: "state.go", test: "TestDebtIsWrittenDown", says: "debt",
		old: " || used > b.Limit() {",
		new: " {",
	},
	{
		name: "release of a predecessor's lease comes back", rule: "no report on a predecessor's lease adds capacity or frees a slot",
		file: "predecessor.go", test: "TestNothingOldComesBack", says: "nothing comes back",
		old: "\tl.ended = final\n",
		new: "\tl.ended = final\n\tfor _, b := range l.key.charges(l.account).buckets {\n\t\tb.Refund(now, 0, 1)\n\t}\n",
	},
	{
		name: "replay charged twice", rule: "replays change nothing",
		file: "predecessor.go", test: "TestOldOverUseIsChargedOnce", says: "once",
		old: "max(l.used[d], l.reserved[d])",
		new: "l.reserved[d]",
	},
	{
		name: "wall clock trusted", rule: "the wall clock allows one probe and no more",
		file: "limit/fixed_window.go", test: "TestAWallClockOpensNothing", says: "only to try",
		old: "\tin := o.ends.Sub(wall)\n",
		new: "\tin := o.ends.Sub(wall)\n\tif in <= 0 {\n\t\tw.refund(now, o.at, o.n)\n\t}\n",
	},
	{
		name: "end of the window before", rule: "an answer tells of the window in which it was given",
		file: "limit/fixed_window.go", test: forgotten,
		old: "if granted < w.begun() { // the answer may be about the window before",
		new: "if false {",
	},
	{
		name: "a group that comes back is another", rule: "a group that comes back has used what it had used, neither less nor more",
		file: "reconfigure_groups.go", test: "TestAKeyThatGoesDrains", says: "no requests left",
		old: "hadGroups, hadKeys := dom.everyGroup(), dom.everyKey()",
		new: "hadGroups, hadKeys := slices.Clone(dom.groups), dom.everyKey()",
	},
	{
		name: "a new limit starts unused", rule: "of a new limit nobody knows what is used",
		file: "reconfigure_classes.go", test: "TestOfANewLimitNothingIsLeft", says: "An error is expected but got nil",
		old: "\t\tc.exhaust(g, b)\n\t\tout = append(out, b)",
		new: "\t\tout = append(out, b)",
	},
	{
		name: "open leases do not count in new slots", rule: "open leases hold their slots in a limit that is new",
		file: "reconfigure.go", test: "TestOpenLeasesCountAgainstNewSlots", says: "expected: *pool.ExhaustedError",
		old: "\t\tdom.takeHolds(now)\n",
		new: "",
	},
	{
		name: "a key brings nothing along", rule: "nobody knows what a key has used of its new group",
		file: "reconfigure_groups.go", test: "TestAKeyThatComesFromAnotherGroup", says: "expected: *pool.ExhaustedError",
		old: "\t\tk.group, k.limited, k.shared = g, nil, nil\n\t\tc.moved[g] = true",
		new: "\t\tk.group, k.limited, k.shared = g, nil, nil",
	},
	{
		name: "models bring nothing along", rule: "nobody knows what a class's new models have used",
		file: "reconfigure_classes.go", test: "TestModelsThatGetAnotherClass", says: "expected: *pool.ExhaustedError",
		old: "\t\tif from != nil && from != cl {\n\t\t\tc.mixed[cl] = true\n",
		new: "\t\tif from != nil && from != cl {\n",
	},
	{
		name: "a reload lifts the provider's limit", rule: "a limit that the provider has lowered stays lowered",
		file: "limit/bucket.go", test: "TestAProvidersLowerLimitStaysInForce", says: "Not equal",
		old: "if b.limit == b.ceiling { // the provider has not lowered it",
		new: "if true {",
	},
	{
		name: "the first pool's time to start counts", rule: "for limits that pools share, the longest time to start counts",
		file: "reconfigure.go", test: "TestTheLongestTimeToStartCounts", says: "An error is expected but got nil",
		old: "dom.delta = max(dom.delta, r.StartWithin)",
		new: "dom.delta = cfg.Pools[0].StartWithin",
	},
	{
		name: "instances stand in one line", rule: "instances of a holder take turns",
		file: "turn.go", test: "TestInstancesOfAHolderTakeTurns", says: "Not equal",
		old: "if t.parts == nil && t.instance != w.Ask.Instance {",
		new: "if false {",
	},
	{
		name: "instances count as holders", rule: "instances have one turn together",
		file: "turn.go", test: "TestManyInstancesAreOneHolder", says: "Max difference between",
		old: "t := ts.of(w.Ask.Holder)\n",
		new: "t := ts.of(w.Ask.Holder + w.Ask.Instance)\n",
	},
	{
		name: "a preference waits", rule: "what is preferred is not waited for",
		file: "search.go", test: "TestAPreferredGroupIsTakenWhileItHasRoom", says: "all keys exhausted",
		old: "if n, ok := s.onlyIn(ch, a); ok {\n\t\t\treturn n, true\n\t\t}",
		new: "return s.onlyIn(ch, a)",
	},
	{
		name: "what others share is not freed", rule: "waiters of every pool hear of room in a shared group",
		file: "class.go", test: "TestWhatOnePoolGivesBackTheOtherHas", says: "the line of the first pool",
		old: "t.choice.queue.due = t.choice.queue.len > 0",
		new: "t.choice.queue.due = t.choice.queue.len > 0 && t.choice.pool.Name == \"\"",
	},
	{
		name: "given out before it is written down", rule: "a grant leaves when whoever follows will know of it",
		pkg: "internal/broker", file: "saves.go", test: "TestGrantsWaitForTheStore", says: "the store cannot be reached",
		old: "return g.Durable && ttl <= s.recorded",
		new: "return true",
	},
	{
		name: "longer time to live given out unwritten", rule: "whoever follows knows how long any lease may live",
		pkg: "internal/broker", file: "saves.go", test: "TestLongerTimeToLiveIsRecordedFirst", says: "Should be false",
		old: "return g.Durable && ttl <= s.recorded",
		new: "return g.Durable",
	},
	{
		name: "given out too late", rule: "a lease that cannot be used in time is not given out",
		pkg: "internal/broker", file: "call.go", test: "TestDurableTooLate", says: "the store cannot be reached",
		old: "case now >= c.grant.StartBy, !l.engine.MarkDurable(c.grant.Lease):",
		new: "case !l.engine.MarkDurable(c.grant.Lease):",
	},
	{
		name: "left behind by a caller", rule: "a lease that its caller did not wait for ends as unused",
		pkg: "internal/broker", file: "call.go", test: "TestCallerLeavesDuringASave", says: "expected: 1",
		old: "if err != nil || c.gone && !c.repeatable {",
		new: "if err != nil {",
	},
	{
		name: "grants on after a failed renewal", rule: "an owner grants until two seconds after the send time of its last acknowledged store call",
		pkg: "internal/broker", file: "ownership.go", test: "TestNothingIsGrantedWithoutTheOwnershipLease", says: "the store cannot be reached",
		old: "case now >= l.ownership.until:",
		new: "case false:",
	},
	{
		name: "goes on when it is fenced", rule: "whoever has been followed grants nothing",
		pkg: "internal/broker", file: "ownership.go", test: "TestPredecessorGrantsNothing", says: "another broker owns the domain",
		old: "l.ownership.fenced = true",
		new: "_ = l",
	},
	{
		name: "saves without the fence", rule: "no earlier owner can save",
		pkg: "internal/store/bolt", file: "writer.go", test: "TestConformance", says: "another owner has taken over",
		old: "return answer{err: broker.ErrFenced}",
		new: "_ = broker.ErrFenced",
	},
}
