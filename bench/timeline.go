package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// timelines prints, for each frontend, the gateway calls of the median build of
// case (a): where the time between the start of its process and its end goes.
func timelines(ctx context.Context, s settings) error {
	return onBench(ctx, s, true, func(b *bench) {
		theirs, ours := b.both(usual...)
		var t, o []report
		for i := range s.warmup + s.pairs {
			a, c := b.reported(b.building(theirs)), b.reported(b.building(ours))
			if i >= s.warmup {
				t, o = append(t, a.reports...), append(o, c.reports...)
			}
		}
		fmt.Printf("official\n%s\nlocalfront\n%s", timeline(t), timeline(o))
	})
}

// timelineWidth is the number of characters that a timeline is drawn on.
const timelineWidth = 64

// timeline draws the report with the median time.
func timeline(reports []report) string {
	slices.SortFunc(reports, func(a, b report) int {
		switch {
		case a.Wall < b.Wall:
			return -1
		case a.Wall > b.Wall:
			return 1
		}
		return 0
	})
	r := reports[len(reports)/2]
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f ms in the process, %.1f ms of processor, %d MiB at most\n", r.Wall, r.CPU, r.Peak>>10)
	for _, c := range r.Calls {
		from := min(int(c.Start/r.Wall*timelineWidth), timelineWidth-1)
		to := min(max(int(c.End/r.Wall*timelineWidth), from+1), timelineWidth)
		bar := strings.Repeat(" ", from) + strings.Repeat("=", to-from) + strings.Repeat(" ", timelineWidth-to)
		fmt.Fprintf(&b, "%-20s |%s| %5.1f to %5.1f\n", c.Name, bar, c.Start, c.End)
	}
	return b.String()
}
