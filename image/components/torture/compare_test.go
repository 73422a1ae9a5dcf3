// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"reflect"
	"testing"
)

func written(number int, key string, previous, revision int64) Record {
	return Record{
		Run: "r", Writer: 1, Number: number, Key: key, Previous: previous, Value: fmt.Sprintf("r/1/%d/x", number),
		Started: int64(10 * number), Ended: int64(10*number + 5), Outcome: made, Revision: revision,
	}
}

func told(record Record) Event {
	return Event{Key: record.Key, Revision: record.Revision, Value: record.Value, Deleted: record.Value == ""}
}

// A store that keeps its word: a creates, b creates, a changes, b is deleted.
func honest() ([]Record, History) {
	removal := written(3, "/b", 2, 4)
	removal.Value = ""
	records := []Record{written(0, "/a", 0, 1), written(1, "/b", 0, 2), written(2, "/a", 1, 3), removal}
	history := History{From: 1, Final: map[string]state{"/a": {3, records[2].Value}}}
	for _, record := range records {
		history.Events = append(history.Events, told(record))
	}
	return records, history
}

// Each case breaks one promise, or none, and says which kinds must be found.
func TestVerify(t *testing.T) {
	cases := map[string]struct {
		change func(*[]Record, *History)
		want   map[string]int
	}{
		"honest":    {func(*[]Record, *History) {}, map[string]int{}},
		"lost":      {func(_ *[]Record, h *History) { h.Events = append(h.Events[:1:1], h.Events[2:]...) }, map[string]int{"lost": 1, "condition": 1}},
		"changed":   {func(_ *[]Record, h *History) { h.Events[0].Value = "r/1/9/x" }, map[string]int{"changed": 1, "phantom": 1}},
		"rollback":  {func(_ *[]Record, h *History) { h.Final["/a"] = state{1, "r/1/0/x"} }, map[string]int{"final": 1}},
		"undead":    {func(_ *[]Record, h *History) { h.Final["/b"] = state{2, "r/1/1/x"} }, map[string]int{"final": 1}},
		"condition": {func(r *[]Record, _ *History) { (*r)[2].Previous = 0 }, map[string]int{"condition": 1}},
		"order":     {func(r *[]Record, _ *History) { (*r)[1].Started, (*r)[1].Ended = 100, 105 }, map[string]int{"order": 1}},
		"phantom": {func(_ *[]Record, h *History) {
			h.Events = append(h.Events, Event{Key: "/c", Revision: 5, Value: "other/1/7/x"})
			h.Final["/c"] = state{5, "other/1/7/x"}
		}, map[string]int{"phantom": 1}},
		"under way at the end": {func(_ *[]Record, h *History) {
			h.Events = append(h.Events, Event{Key: "/c", Revision: 5, Value: "r/1/4/x"})
			h.Final["/c"] = state{5, "r/1/4/x"}
		}, map[string]int{}},
		"unknown, happened": {func(r *[]Record, _ *History) {
			(*r)[2].Outcome, (*r)[2].Revision = unknown, 0
		}, map[string]int{}},
		"unknown, twice": {func(r *[]Record, h *History) {
			(*r)[2].Outcome, (*r)[2].Revision = unknown, 0
			h.Events = append(h.Events, Event{Key: "/a", Revision: 5, Value: (*r)[2].Value})
			h.Final["/a"] = state{5, (*r)[2].Value}
		}, map[string]int{"twice": 1}},
		"compacted": {func(_ *[]Record, h *History) { h.From, h.Events = 5, nil }, map[string]int{}},
		"compacted too much": {func(_ *[]Record, h *History) {
			h.From, h.Events, h.Final = 5, nil, nil
		}, map[string]int{"compaction": 1}},
		"deletion compacted, not what it deleted": {func(_ *[]Record, h *History) {
			h.From, h.Events = 5, nil
			h.Final["/b"] = state{2, "r/1/1/x"}
		}, map[string]int{"compaction": 1}},
		"conflict with nobody": {func(r *[]Record, _ *History) {
			*r = append(*r, Record{Run: "r", Writer: 1, Number: 4, Key: "/a", Previous: 3, Value: "r/1/4/x", Outcome: conflict})
		}, map[string]int{"conflict": 1}},
		"one revision for two": {func(r *[]Record, _ *History) {
			*r = append(*r, written(5, "/d", 0, 4))
		}, map[string]int{"double-revision": 1, "changed": 1, "order": 1}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			records, history := honest()
			test.change(&records, &history)
			result := Verify(records, history)
			if !reflect.DeepEqual(result.Broken, test.want) {
				t.Errorf("found %v, want %v: %v", result.Broken, test.want, result.Instances)
			}
		})
	}
}

func TestJournalSurvivesATornRecord(t *testing.T) {
	path := t.TempDir() + "/journal"
	journal, err := OpenJournal(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := journal.Add(written(0, "/a", 0, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.file.WriteString(`{"run":"r","wri`); err != nil {
		t.Fatal(err)
	}
	journal, err = OpenJournal(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := journal.Add(written(1, "/b", 0, 2)); err != nil {
		t.Fatal(err)
	}
	records, err := ReadJournal(path)
	if err != nil || len(records) != 2 || records[1].Key != "/b" {
		t.Errorf("read %v, %v", records, err)
	}
}
