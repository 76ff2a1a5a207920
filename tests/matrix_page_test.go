package tests

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/org/localfront/internal/testimage"
)

var update = flag.Bool("update", false, "write what the engines did into testdata/engines.json and docs/engines.md")

// seenFile holds what each row of the matrix did: row, scenario, outcome.
const seenFile = "testdata/engines.json"

// page gathers what happens, to be compared with what is committed.
type page struct {
	mu   sync.Mutex
	seen map[string]map[string]string
}

// newPage compares when the test ends with all its subtests. Only what ran and
// went well is compared, so that one row or scenario can be run by itself.
func newPage(t *testing.T) *page {
	t.Helper()
	p := &page{seen: map[string]map[string]string{}}
	t.Cleanup(func() {
		committed := readSeen(t)
		for name, cells := range p.seen {
			was := map[string]string{}
			for scenario := range cells {
				was[scenario] = committed[name][scenario]
			}
			if diff := cmp.Diff(was, cells); diff != "" && !*update {
				t.Errorf("%s: other than %s says, which -update rewrites (-committed +seen):\n%s", name, seenFile, diff)
			}
		}
		if *update {
			p.write(t, committed)
		}
	})
	return p
}

// note takes in an outcome.
func (p *page) note(t *testing.T, r row, scenario, outcome string) {
	t.Helper()
	if t.Failed() {
		return
	}
	if outcome == "" {
		t.Error("the scenario does not say what happened")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[r.name] == nil {
		p.seen[r.name] = map[string]string{}
	}
	p.seen[r.name][scenario] = outcome
}

// write replaces what was committed of the rows and scenarios that ran, and
// drops what there is no more.
func (p *page) write(t *testing.T, committed map[string]map[string]string) {
	t.Helper()
	for _, r := range rows {
		maps.DeleteFunc(committed[r.name], func(name, _ string) bool {
			return !slices.ContainsFunc(r.all(), func(s scenario) bool { return s.name == name })
		})
		for scenario, outcome := range p.seen[r.name] {
			if committed[r.name] == nil {
				committed[r.name] = map[string]string{}
			}
			committed[r.name][scenario] = outcome
		}
	}
	dt, err := json.MarshalIndent(committed, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{seenFile: string(dt) + "\n", pageFile(t): renderPage(committed)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
}

func readSeen(t *testing.T) map[string]map[string]string {
	t.Helper()
	dt, err := os.ReadFile(seenFile)
	if err != nil {
		t.Fatal(err)
	}
	var seen map[string]map[string]string
	if err := json.Unmarshal(dt, &seen); err != nil {
		t.Fatal(err)
	}
	return seen
}

func pageFile(t *testing.T) string {
	t.Helper()
	root, err := testimage.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "docs", "engines.md")
}

// TestPage: docs/engines.md is what the tests saw, and says something of every
// row and scenario there is.
func TestPage(t *testing.T) {
	t.Parallel()
	seen := readSeen(t)
	if *update {
		(&page{}).write(t, seen)
	}
	got, err := os.ReadFile(pageFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(renderPage(seen), string(got)); diff != "" {
		t.Errorf("docs/engines.md is not what %s says (-want +got):\n%s", seenFile, diff)
	}
	for _, r := range rows {
		for _, s := range r.all() {
			if seen[r.name][s.name] == "" {
				t.Errorf("%s: nothing is known of %s", r.name, s.name)
			}
		}
	}
}

const pageHead = `# Engines

What localfront does on each kind of builder. This page is written by
` + "`go test ./tests -run TestMatrix -roads -update`" + `. ` + "`make test-engines`" + ` fails when a builder does
otherwise, ` + "`make test-engines ENGINE=oci`" + ` runs one row, and ` + "`make test`" + ` all scenarios on all rows
(` + "`graph-container`" + ` apart, which is ` + "`docker-container`" + ` but for Docker's store) and each road where it
differs most.

`

const roadsHead = `
## Roads

Ways to get to localfront, and what goes with a build, each tried where it may
differ.

`

// renderPage is docs/engines.md.
func renderPage(seen map[string]map[string]string) string {
	var b strings.Builder
	b.WriteString(pageHead)
	notes := &notes{}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	fmt.Fprintf(&b, "| builder | driver | `ENGINE` | %s |\n|---|---|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | `%s` |", r.what, r.driver, r.name)
		for _, s := range scenarios {
			fmt.Fprintf(&b, " %s |", notes.cell(seen[r.name][s.name]))
		}
		b.WriteString("\n")
	}
	b.WriteString(roadsHead)
	var on []row
	for _, r := range rows {
		if len(r.all()) > len(scenarios) {
			on = append(on, r)
		}
	}
	b.WriteString("| road |")
	for _, r := range on {
		fmt.Fprintf(&b, " `%s` |", r.name)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(on)))
	for _, road := range roads {
		fmt.Fprintf(&b, "| %s |", road.name)
		for _, r := range on {
			fmt.Fprintf(&b, " %s |", notes.cell(seen[r.name][road.name]))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n" + notes.String())
	return b.String()
}

// notes are the longer outcomes, each told once.
type notes struct{ texts []string }

// cell is an outcome as it stands in the table: what is before ": " or "; ",
// with the number of the note that tells the whole.
func (n *notes) cell(outcome string) string {
	short, _, long := strings.Cut(outcome, "; ")
	if before, _, ok := strings.Cut(short, ": "); ok {
		short, long = before, true
	}
	if !long {
		return outcome
	}
	i := slices.Index(n.texts, outcome)
	if i < 0 {
		i, n.texts = len(n.texts), append(n.texts, outcome)
	}
	return fmt.Sprintf("%s [%d]", short, i+1)
}

// String lists the notes in the order of their numbers.
func (n *notes) String() string {
	var b strings.Builder
	for i, text := range n.texts {
		fmt.Fprintf(&b, "%d. %s\n", i+1, text)
	}
	return b.String()
}
