// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sort"
	"strconv"
	"strings"
)

// comparison holds the two sides, indexed.
type comparison struct {
	result   *VerifyResult
	records  []Record
	history  History
	event    map[int64]Event   // by revision
	before   map[int64]Event   // by revision: the same key's event before it
	last     map[string]Event  // by key: its newest event
	byValue  map[string]Record // records that wrote a value
	deleters map[string][]Record
	numbers  map[string]int // by run and writer: the highest number in the journal
}

func newComparison(result *VerifyResult, records []Record, history History) *comparison {
	c := &comparison{
		result: result, records: records, history: history,
		event: map[int64]Event{}, before: map[int64]Event{}, last: map[string]Event{},
		byValue: map[string]Record{}, deleters: map[string][]Record{}, numbers: map[string]int{},
	}
	for _, event := range history.Events {
		if _, double := c.event[event.Revision]; double {
			result.broken("double-event", "revision %d was told twice", event.Revision)
		}
		c.event[event.Revision] = event
		if previous, found := c.last[event.Key]; found {
			c.before[event.Revision] = previous
		}
		c.last[event.Key] = event
	}
	for _, record := range records {
		if record.Value != "" {
			c.byValue[record.Value] = record
		} else {
			c.deleters[record.Key] = append(c.deleters[record.Key], record)
		}
		who := writerName(record.Run, record.Writer)
		c.numbers[who] = max(c.numbers[who], record.Number)
	}
	return c
}

func writerName(run string, writer int) string { return run + "/" + strconv.Itoa(writer) }

// acknowledged: each acknowledged write is in the history, once, with its key and value, upon the revision it named.
func (c *comparison) acknowledged() {
	owners := map[int64]Record{}
	for _, record := range c.records {
		if record.Outcome != made {
			continue
		}
		c.result.Made++
		if owner, taken := owners[record.Revision]; taken {
			c.result.broken("double-revision", "%d was given to %s and to %s", record.Revision, owner.Key, record.Key)
		}
		owners[record.Revision] = record
		if record.Revision < c.history.From {
			continue
		}
		c.result.Compared++
		event, found := c.event[record.Revision]
		switch {
		case !found:
			c.result.broken("lost", "%s at revision %d", record.Key, record.Revision)
			continue
		case event.Key != record.Key || event.Value != record.Value || event.Deleted != (record.Value == ""):
			c.result.broken("changed", "revision %d is of %s, written was %s", record.Revision, event.Key, record.Key)
			continue
		}
		c.condition(record, event)
	}
}

// condition: the revision a write named as the previous one was the previous one.
func (c *comparison) condition(record Record, event Event) {
	previous, found := c.before[event.Revision]
	switch {
	case !found && (record.Previous == 0 || record.Previous < c.history.From):
	case found && record.Previous == 0 && previous.Deleted:
	case found && record.Previous == previous.Revision:
	default:
		c.result.broken("condition", "%s at revision %d was made upon %d, not upon %d",
			record.Key, event.Revision, previous.Revision, record.Previous)
	}
}

// explained: each event is a write of the journal, and none happened twice. A writer that ended with its machine may
// have had one more write under way.
func (c *comparison) explained() {
	happened := map[string]int64{}
	under := map[string]bool{}
	var strangers []Event
	for _, event := range c.history.Events {
		if event.Deleted {
			if !c.explainDeletion(event) {
				strangers = append(strangers, event)
			}
			continue
		}
		if first, twice := happened[event.Value]; twice {
			c.result.broken("twice", "%s at revisions %d and %d", event.Key, first, event.Revision)
		}
		happened[event.Value] = event.Revision
		record, known := c.byValue[event.Value]
		switch {
		case known && record.Outcome == unknown:
			c.result.Happened++
		case known && record.Outcome == made && record.Revision == event.Revision:
		case known:
			c.result.broken("phantom", "%s at revision %d: its writer was told %s %d",
				event.Key, event.Revision, record.Outcome, record.Revision)
		case c.underWay(event.Value) != "" && !under[c.underWay(event.Value)]:
			under[c.underWay(event.Value)] = true
		default:
			c.result.broken("phantom", "%s at revision %d was written by nobody", event.Key, event.Revision)
		}
	}
	for _, record := range c.records {
		if record.Outcome == unknown {
			c.result.Unknown++
		}
	}
	// A deletion bears no name; but there cannot be more of them than writers without another write under way.
	if len(strangers) > len(c.numbers)-len(under) {
		c.result.broken("phantom", "%d deletions by nobody, the first is %s", len(strangers), strangers[0].Key)
	}
}

// underWay returns the writer whose next write after its last in the journal this value is, or nothing.
func (c *comparison) underWay(value string) string {
	part := strings.SplitN(value, "/", 4)
	if len(part) != 4 {
		return ""
	}
	who := part[0] + "/" + part[1]
	number, err := strconv.Atoi(part[2])
	last, known := c.numbers[who]
	// Its very first write has no predecessor in the journal.
	if err != nil || (known && number != last+1) || (!known && number != 0) {
		return ""
	}
	return who
}

// explainDeletion finds the deletion's record: one that was acknowledged goes before one without an answer, which may
// have been made upon the same revision and lost.
func (c *comparison) explainDeletion(event Event) bool {
	perhaps := 0
	for _, record := range c.deleters[event.Key] {
		if record.Outcome == made && record.Revision == event.Revision {
			return true
		}
		if record.Outcome == unknown && record.Previous == c.before[event.Revision].Revision {
			perhaps = 1
		}
	}
	c.result.Happened += perhaps
	return perhaps > 0
}

// final: what exists now is what the history ends with.
func (c *comparison) final() {
	for key, event := range c.last {
		now, exists := c.history.Final[key]
		switch {
		case event.Deleted && exists:
			c.result.broken("final", "%s exists, its history ends with a deletion at %d", key, event.Revision)
		case !event.Deleted && (!exists || now.revision != event.Revision || now.value != event.Value):
			c.result.broken("final", "%s is at %d, its history ends at %d", key, now.revision, event.Revision)
		}
	}
	for key, now := range c.history.Final {
		if _, found := c.last[key]; !found && now.revision >= c.history.From {
			c.result.broken("final", "%s is at %d, of which the history knows nothing", key, now.revision)
		}
	}
}

// survivors: compaction takes away what was replaced or deleted, and nothing else.
func (c *comparison) survivors() {
	newest, doubtful := map[string]Record{}, map[string]bool{}
	for _, record := range c.records {
		switch {
		case record.Outcome == unknown:
			doubtful[record.Key] = true
		case record.Outcome == made && record.Revision > newest[record.Key].Revision:
			newest[record.Key] = record
		}
	}
	for key, record := range newest {
		if _, later := c.last[key]; later || doubtful[key] || record.Revision >= c.history.From {
			continue
		}
		now, exists := c.history.Final[key]
		switch {
		case record.Value == "" && exists:
			c.result.broken("compaction", "%s exists, it was deleted at %d", key, record.Revision)
		case record.Value != "" && now != (state{record.Revision, record.Value}):
			c.result.broken("compaction", "%s of revision %d is gone, or at %d", key, record.Revision, now.revision)
		}
		c.result.Survivors++
	}
}

// order: a write that began after another was acknowledged has the higher revision. Between runs of the writing
// program the clock may have jumped, so it is asked of each run by itself.
func (c *comparison) order() {
	runs := map[string][]Record{}
	for _, record := range c.records {
		if record.Outcome == made {
			runs[record.Run] = append(runs[record.Run], record)
		}
	}
	for _, acknowledged := range runs {
		c.orderOf(acknowledged)
	}
}

func (c *comparison) orderOf(acknowledged []Record) {
	byEnd := append([]Record(nil), acknowledged...)
	sort.Slice(byEnd, func(i, j int) bool { return byEnd[i].Ended < byEnd[j].Ended })
	sort.Slice(acknowledged, func(i, j int) bool { return acknowledged[i].Started < acknowledged[j].Started })
	highest, next := int64(0), 0
	for _, record := range acknowledged {
		for ; next < len(byEnd) && byEnd[next].Ended < record.Started; next++ {
			highest = max(highest, byEnd[next].Revision)
		}
		if record.Revision <= highest {
			c.result.broken("order", "%s got revision %d after %d had been told", record.Key, record.Revision, highest)
		}
	}
}

// conflicts: nobody else writes a writer's own keys, so none of its conditions may have failed there.
func (c *comparison) conflicts() {
	for _, record := range c.records {
		if record.Outcome == conflict && !strings.Contains(record.Key, sharedMark) {
			c.result.broken("conflict", "%s upon %d, which nobody else writes", record.Key, record.Previous)
		}
	}
}
