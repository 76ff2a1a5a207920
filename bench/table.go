package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// The table stands in the document between these lines.
const (
	tableBegin = "<!-- table: make bench -->\n"
	tableEnd   = "<!-- end of table -->\n"
)

// table is all that was measured.
type table struct {
	rows  []row
	sizes []size
}

// markdown is the table as text.
func (t table) markdown(s settings) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d pairs after %d that do not count; %s/%s, %d processors, %s.\n\n",
		s.pairs, s.warmup, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	if len(t.rows) > 0 {
		b.WriteString("| case | | theirs, ms | ours, ms | ratio | by pairs | target | requests | gateway calls | containers |\n")
		b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	}
	for _, r := range t.rows {
		b.WriteString(r.markdown())
	}
	b.WriteString(t.further())
	if len(t.sizes) > 0 {
		b.WriteString("\n| k | official | localfront | ratio | target |\n|---|--:|--:|--:|--:|\n")
	}
	for _, z := range t.sizes {
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f | %s |\n", z.what, z.text(z.theirs), z.text(z.ours), z.ours/z.theirs, z.target)
	}
	return b.String()
}

func (r row) markdown() string {
	theirs, ours := estimateOf(r.theirs.times), estimateOf(r.ours.times)
	q := estimateOf(quotients(r.ours.times, r.theirs.times))
	what := r.what
	if r.theirs.name != "" {
		what += "; theirs: " + r.theirs.name
	}
	if r.ours.name != "" {
		what += "; ours: " + r.ours.name
	}
	tc, oc := r.theirs.counts, r.ours.counts
	return fmt.Sprintf("| %s | %s | %.0f %s | %.0f %s | **%.2f** | %.2f [%.2f, %.2f] | %s | %d / %d | %d / %d | %d / %d |\n",
		r.id, what, theirs.median, theirs.spread(), ours.median, ours.spread(), ours.median/theirs.median,
		q.median, q.lo, q.hi, r.target,
		tc.requests, oc.requests, tc.calls, oc.calls, tc.containers, oc.containers)
}

// further says what each base beyond the first adds in case (c).
func (t table) further() string {
	find := func(id string) *row {
		for i := range t.rows {
			if t.rows[i].id == id {
				return &t.rows[i]
			}
		}
		return nil
	}
	few, many := find("c.1"), find("c.50")
	if few == nil || many == nil {
		return ""
	}
	theirs, ours := perFurther(few.theirs.times, many.theirs.times, 49), perFurther(few.ours.times, many.ours.times, 49)
	more := estimateOf(differences(ours, theirs))
	return fmt.Sprintf("\n(c) Each further base adds %.1f ms to theirs and %.1f ms to ours: %+.1f ms [%+.1f, %+.1f], target ≤ 1 ms.\n",
		estimateOf(theirs).median, estimateOf(ours).median, more.median, more.lo, more.hi)
}

// replaceTable puts text where the table of a document stands.
func replaceTable(path, text string) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	before, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ended {
		return fmt.Errorf("write the table: %s has no place for it: add the lines %q and %q", path, tableBegin, tableEnd)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n%s\n%s%s", before, tableBegin, text, tableEnd, after)
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
