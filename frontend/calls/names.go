package calls

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// Named is one line of what Names answers.
type Named struct {
	// Name is the name as people write it.
	Name string `json:"name"`
	// Platforms are those that it was built for.
	Platforms []string `json:"platforms"`
	// Built is when it was recorded.
	Built time.Time `json:"built"`
	// Dockerfile is the name of the file that it was built from.
	Dockerfile string `json:"dockerfile"`
	// From are the named results that it was made from.
	From []string `json:"from"`
}

// Names answers with the named results of a builder.
func Names(all []Named, now time.Time) Answer {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPLATFORMS\tBUILT\tDOCKERFILE\tFROM")
	for _, n := range all {
		fmt.Fprintf(w, "%s\t%s\t%s ago\t%s\t%s\n", n.Name, strings.Join(n.Platforms, ","),
			strings.ToLower(units.HumanDuration(max(0, now.Sub(n.Built)))), n.Dockerfile, strings.Join(n.From, ","))
	}
	_ = w.Flush() // a strings.Builder takes everything
	if len(all) == 0 {
		text.Reset()
		text.WriteString("no build on this builder has been named\n")
	}
	return Answer{Text: text.String(), JSON: append(make([]Named, 0, len(all)), all...)}
}
