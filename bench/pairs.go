package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/org/localfront/internal/testregistry"
)

// turn is what one side of a comparison does each time.
type turn struct {
	run func()
	// around prepares what run needs, calls it, and takes it away; only run is
	// measured. It may be nil.
	around func(run func())
}

// row is one comparison.
type row struct {
	id     string
	what   string
	target string
	theirs side
	ours   side
}

// side is what was seen of one side.
type side struct {
	name   string    // official and localfront when empty
	times  []float64 // milliseconds, by pair
	counts counts
}

// counts are what one turn caused.
type counts struct {
	requests   int // to the registry, those for the frontend itself left out
	calls      int // of the gateway, by the frontend
	containers int // started by the daemon, the frontend's own among them
	reports    []report
}

// report is what the wrapper prints of one frontend process.
type report struct {
	Calls []struct {
		Name       string
		Start, End float64 // milliseconds
	}
	Wall, CPU float64 // milliseconds
	Peak      int64   // KiB
}

// compare runs both turns alternately and adds a row.
func (b *bench) compare(r row, theirs, ours turn) {
	fmt.Fprintf(os.Stderr, "%s: %s%s\n", r.id, r.what, map[bool]string{true: " (counts)"}[b.counting])
	pairs := b.settings.pairs
	if b.counting {
		pairs = 1
	}
	for i := range b.settings.warmup + pairs {
		t, o := &r.theirs, &r.ours
		if i%2 == 0 { // neither side always profits from the other's traces
			b.take(t, theirs)
			b.take(o, ours)
		} else {
			b.take(o, ours)
			b.take(t, theirs)
		}
		if i < b.settings.warmup {
			t.times, o.times = nil, nil
		}
	}
	b.rows = append(b.rows, r)
}

// take measures one turn of a side.
func (b *bench) take(s *side, t turn) {
	b.Must(b.Context().Err())
	if t.around == nil {
		t.around = func(run func()) { run() }
	}
	t.around(func() {
		b.reg.Reset()
		logged := 0
		if b.counting {
			logged = len(b.daemon.Log())
		}
		start := time.Now()
		t.run()
		s.times = append(s.times, milliseconds(time.Since(start)))
		if b.counting {
			s.counts = countsOf(b.daemon.Log()[logged:])
			s.counts.requests = b.requests()
		}
	})
}

// requests counts those that were not for a frontend.
func (b *bench) requests() int {
	mine := func(q testregistry.Request) bool {
		return testregistry.InRepository(officialRepo)(q) || testregistry.InRepository(localfrontRepo)(q)
	}
	return len(slices.DeleteFunc(b.reg.Requests(), mine))
}

// countsOf reads counts off the daemon's log.
func countsOf(log string) counts {
	var c counts
	for line := range strings.Lines(log) {
		if _, text, ok := strings.Cut(line, "gatewaycount: "); ok {
			var r report
			if err := json.Unmarshal([]byte(text), &r); err == nil {
				c.reports = append(c.reports, r)
				c.calls += len(r.Calls)
			}
		}
		if strings.Contains(line, "> creating ") {
			c.containers++
		}
	}
	return c
}
