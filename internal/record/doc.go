// Package record is how the record of a domain is written: which chunks a save changes, and
// what is in them.
//
// A record is a log. Each save writes the parts of the state that have changed into new
// chunks; a part counts as it is in the latest chunk that has it. A chunk never changes. When
// there are many small chunks, or much of the log is out of date, the save writes parts of
// earlier chunks again, as they were, and drops those chunks.
//
//	log.go      Log: the chunks of a record as its owner writes them
//	decode.go   Decode: a record as a successor reads it
//	parts.go    the bytes of each part of a state
//	bucket.go   those of limits and cooldowns
//	bytes.go    numbers, texts and durations as bytes
//	version1.go records of version 1, which were JSON
//
// # Format
//
// A chunk is the version of the format, the chunk's number in the log, and parts, each after
// its size. A part is its kind, the names that tell it from others of its kind, the moment as
// of which it was written, and its content. Numbers are varints. One part, the head, is in
// each save. It has the moment of that save, and whatever else a part says counts as of then.
package record
