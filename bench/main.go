// Command bench measures localfront against the official Dockerfile frontend of
// the same BuildKit version: builds of either in turn, on the same daemon, with
// the same Dockerfile and the same registry, all on loopback. It asserts
// nothing; docs/performance.md says how to read what it prints.
//
//	make bench                               all cases, into docs/performance.md
//	go run ./bench -cases a,c -pairs 25      some of them
//	go run ./bench -timeline                 where the time of case a goes
//
// Each file holds one group of cases. The engines, registries and images are
// those of the tests.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// settings are what the command line says.
type settings struct {
	cases    []string // nil means all
	pairs    int
	warmup   int
	timeline bool
	write    string
}

// groups are all cases, in the order of the table.
var groups = []group{
	{"a", warm}, {"b", warmFar}, {"c", bases}, {"d", first}, {"e", pull},
	{"f", named}, {"g", locked}, {"h", bigContext}, {"i", builtin}, {"j", load},
}

// group is the cases of one letter.
type group struct {
	letter string
	run    func(*bench)
}

func main() {
	var s settings
	names := flag.String("cases", "", "letters of the `cases` to run, such as a,c; all when empty")
	flag.IntVar(&s.pairs, "pairs", 15, "`pairs` of builds for each row")
	flag.IntVar(&s.warmup, "warmup", 2, "pairs before that, which do not count")
	flag.StringVar(&s.write, "write", "", "`file` whose table to replace, such as docs/performance.md")
	flag.BoolVar(&s.timeline, "timeline", false, "print each gateway call of case a instead")
	flag.Parse()
	if *names != "" {
		s.cases = strings.Split(*names, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	for _, c := range s.cases {
		if c != "k" && !slices.ContainsFunc(groups, func(g group) bool { return g.letter == c }) {
			return fmt.Errorf("no case %q: a to k are there", c)
		}
	}
	if s.timeline {
		return timelines(ctx, s)
	}
	var t table
	for _, g := range groups {
		if !s.wants(g.letter) {
			continue
		}
		rows, err := measure(ctx, s, g)
		if err != nil {
			return fmt.Errorf("case %s: %w", g.letter, err)
		}
		t.rows = append(t.rows, rows...)
	}
	if s.wants("k") {
		sizes, err := binaries(ctx, s)
		if err != nil {
			return fmt.Errorf("case k: %w", err)
		}
		t.sizes = sizes
	}
	text := t.markdown(s)
	fmt.Print("\n", text)
	if s.write == "" {
		return nil
	}
	return replaceTable(s.write, text)
}

func (s settings) wants(letter string) bool {
	return s.cases == nil || slices.Contains(s.cases, letter)
}
