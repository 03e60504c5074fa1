package pool

// Summary gives a pool at a glance, however many keys it has to count.
func (dom *Domain) Summary(now Time, name string) Summary {
	var count Count
	for {
		if s, done := dom.Glance(now, name, &count); done {
			return s
		}
	}
}

// Inspect gives the whole state of a pool, page by page.
func (dom *Domain) Inspect(now Time, name string) Snapshot {
	s := Snapshot{Summary: dom.Summary(now, name), Queues: dom.Queues(now, name), Warnings: dom.Warnings()}
	for q := (Query{}); ; q.From = s.Next {
		p, err := dom.Page(now, name, q)
		if err != nil {
			panic(err)
		}
		s.Keys, s.Quotas, s.Next = append(s.Keys, p.Keys...), append(s.Quotas, p.Quotas...), p.Next
		if p.Next == (Cursor{}) {
			return s
		}
	}
}
