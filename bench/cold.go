package main

import (
	"github.com/org/localfront/internal/standin"
)

// first is case (d): the first build that a builder ever runs, with the pull of
// the frontend and of the base.
func first(b *bench) {
	theirs, ours := b.both(usual...)
	b.compare(row{id: "d", what: "first build on a builder", target: "≤ 1.15"}, b.onNewBuilder(theirs), b.onNewBuilder(ours))
}

// onNewBuilder is the turn that builds on a daemon without state.
func (b *bench) onNewBuilder(dir string, args ...string) turn {
	t := b.building(dir, args...)
	t.around = func(run func()) {
		daemon, cli := b.daemon, b.cli
		b.Must(standin.Run(b.Context(), "localfront-bench", func(t *standin.TB) {
			b.startDaemon(t)
			run()
		}))
		b.daemon, b.cli = daemon, cli
	}
	return t
}
