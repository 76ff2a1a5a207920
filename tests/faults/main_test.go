package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/localfront/internal/testimage"
)

var (
	soak   = flag.Bool("soak", false, "run the full counts, which takes the better part of an hour")
	seed   = flag.Uint64("seed", 1, "what the random moments of faults are derived from")
	update = flag.Bool("update", false, "write what was measured to docs/reliability.md")
)

// times is how often something is done: a few times beside all other tests,
// and as often as it takes with -soak.
func times(short, full int) int {
	if *soak {
		return full
	}
	return short
}

// random returns a source of randomness for one test. The seed is in the
// test's log.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	t.Logf("seed %d: repeat with -run '^%s$' -seed=%d", *seed, t.Name(), *seed)
	return rand.New(rand.NewPCG(*seed, uint64(len(t.Name()))))
}

// progress says every now and then how far a long run is, so that one that is
// stopped has told something.
func progress(t *testing.T, done, all int, format string, args ...any) {
	t.Helper()
	if *soak && done%10 == 0 {
		t.Logf("%s: %d of %d; %s", time.Now().Format(time.TimeOnly), done, all, fmt.Sprintf(format, args...))
	}
}

// figure is one row of the table in docs/reliability.md.
type figure struct {
	fault   string
	tries   int
	outcome string // what happened, in words
	longest time.Duration
}

var figures struct {
	sync.Mutex
	rows []figure
}

// measured adds a row to what is reported, unless the test has failed.
func measured(t *testing.T, f figure) {
	t.Helper()
	if t.Failed() {
		return
	}
	t.Logf("%s: %d times: %s; longest %s", f.fault, f.tries, f.outcome, f.longest.Round(time.Millisecond))
	figures.Lock()
	defer figures.Unlock()
	figures.rows = append(figures.rows, f)
}

const (
	tableStart = "<!-- figures: written by make soak -->"
	tableEnd   = "<!-- end of figures -->"
)

// TestMain writes the rows of those tests that have passed.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if *update {
		if err := writeTable(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// writeTable replaces the rows that were measured, and keeps the others.
func writeTable() error {
	root, err := testimage.RepoRoot()
	if err != nil {
		return err
	}
	path := filepath.Join(root, "docs", "reliability.md")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), tableStart)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no table between %s and %s", path, tableStart, tableEnd)
	}
	rows := map[string]string{}
	for line := range strings.Lines(old) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| ") {
			rows[name] = line
		}
	}
	delete(rows, "fault")
	for _, f := range figures.rows {
		rows[f.fault] = fmt.Sprintf("| %s | %d | %s | %s |\n", f.fault, f.tries, f.outcome, f.longest.Round(10*time.Millisecond))
	}
	var lines []string
	for _, line := range rows {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	table := tableStart + "\n\n| fault | tries | what happened | longest |\n|---|---|---|---|\n" + strings.Join(lines, "") + "\n" + tableEnd
	return os.WriteFile(path, []byte(before+table+after), 0o644)
}
