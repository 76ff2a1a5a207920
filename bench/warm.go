package main

import (
	"fmt"
	"time"

	"github.com/org/localfront/internal/testregistry"
)

// warm is case (a): everything is cached, and the registry is near.
func warm(b *bench) {
	theirs, ours := b.both(usual...)
	b.compare(row{id: "a", what: "warm rebuild, one base", target: "≤ 1.00"}, b.building(theirs), b.building(ours))
	b.compare(row{id: "a.2", what: "the same without provenance"},
		b.building(theirs, "--provenance=false"), b.building(ours, "--provenance=false"))
}

// warmFar is case (b): the same with a registry like Docker Hub.
func warmFar(b *bench) {
	b.far(func() {
		theirs, ours := b.both(usual...)
		b.compare(row{id: "b", what: "warm rebuild, 50 ms a request, token", target: "≤ 0.50"}, b.building(theirs), b.building(ours))
	})
}

// far puts 50 ms and a token endpoint before the registry while f runs.
func (b *bench) far(f func()) {
	b.reg.RequireToken(true)
	b.reg.SetFaults(testregistry.All, testregistry.Fault{Delay: 50 * time.Millisecond})
	f()
	b.reg.ClearFaults()
	b.reg.RequireToken(false)
}

// bases is case (c): warm, with more and more base images.
func bases(b *bench) {
	for _, n := range []int{1, 5, 20, 50} {
		var lines []string
		copies := []string{"FROM scratch"}
		for i := range n {
			name := fmt.Sprintf("base%d:1", i)
			b.push(name, b.busybox(name))
			lines = append(lines, fmt.Sprintf("FROM REG/%s AS s%d", name, i))
			copies = append(copies, fmt.Sprintf("COPY --from=s%d /etc/release /%d", i, i))
		}
		theirs, ours := b.both(append(lines, copies...)...)
		b.compare(row{id: fmt.Sprintf("c.%d", n), what: fmt.Sprintf("warm, %d bases", n)}, b.building(theirs), b.building(ours))
	}
}

// pull is case (e): --pull where nothing has moved.
func pull(b *bench) {
	theirs, ours := b.both(usual...)
	b.compare(row{id: "e", what: "--pull, nothing moved", target: "≤ 1.05"}, b.building(theirs, "--pull"), b.building(ours, "--pull"))
}

// builtin is case (i): the floor, which is the daemon's own frontend and a base
// pinned by digest. There is no frontend container.
func builtin(b *bench) {
	digest, err := b.reg.Digest("alpine:3.20")
	b.Must(err)
	pinned := append([]string{"FROM REG/alpine:3.20@" + digest}, usual[1:]...)
	floor := b.project("", pinned...)
	ours := b.project(b.ours, usual...)
	b.compare(row{id: "i", what: "warm rebuild against the built-in frontend, base pinned", theirs: side{name: "built in"}},
		b.building(floor), b.building(ours))
}
