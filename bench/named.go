package main

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
)

// nameArg names what a build makes.
const nameArg = "--build-arg=LOCALFRONT_NAME="

// named is case (f): bar is built from foo, and nothing has changed. With the
// official frontend that takes a Bakefile or a registry.
func named(b *bench) {
	foo := []string{"FROM REG/alpine:3.20", "COPY app /foo", "RUN echo foo >> /foo"}
	bar := func(base string) []string { return []string{"FROM " + base, "COPY app /bar", "RUN cat /foo >> /bar"} }
	ours := turn{run: b.steps(
		b.step(b.project(b.ours, foo...), nameArg+"foo"),
		b.step(b.project(b.ours, bar("foo")...)),
	)}

	dir := b.TempDir()
	b.write(dir, "docker-bake.hcl", fmt.Sprintf(`
target "foo" { context = %q }
target "bar" {
  context  = %q
  contexts = { foo = "target:foo" }
}
`, b.project(b.theirs, foo...), b.project(b.theirs, bar("foo")...)))
	bake := turn{run: func() {
		b.cli.MustBuildx(b, "bake", "--allow=fs.read=*", "--file", filepath.Join(dir, "docker-bake.hcl"), "bar")
	}}
	b.compare(row{id: "f.1", what: "foo, then bar FROM foo; theirs: bake", target: "≤ 1.00"}, bake, ours)

	onlyBar := b.building(b.project(b.ours, bar("foo")...))
	b.compare(row{id: "f.2", what: "bar alone, foo is known; theirs: bake"}, bake, onlyBar)

	ref := b.reg.Ref("foo:1")
	registry := turn{run: b.steps(
		b.step(b.project(b.theirs, foo...), "--push", "--tag="+ref),
		b.step(b.project(b.theirs, bar(ref)...)),
	)}
	b.compare(row{id: "f.3", what: "foo, then bar; theirs: push and pull", target: "≤ 0.50"}, registry, ours)
}

// step is one build as a part of a turn.
func (b *bench) step(dir string, args ...string) func() { return func() { b.build(dir, args...) } }

// steps does one thing after the other.
func (*bench) steps(all ...func()) func() {
	return func() {
		for _, f := range all {
			f()
		}
	}
}

// Size of the context of case (h).
const (
	contextFiles = 200
	contextFile  = 1_000_000 // bytes
)

// bigContext is case (h): a context of 200 MB, which a named build freezes.
// Both sides are localfront's; theirs has no name.
func bigContext(b *bench) {
	dir := b.project(b.ours, "FROM REG/alpine:3.20", "COPY . /src", "RUN echo built > /built")
	for i := range contextFiles {
		b.fill(dir, i)
	}
	unnamed, named := b.building(dir), b.building(dir, nameArg+"big")
	sides := func(r row) row {
		r.theirs.name, r.ours.name = "unnamed localfront", "named localfront"
		return r
	}
	b.compare(sides(row{id: "h.1", what: "context of 200 MB, unchanged", target: "≤ 1.15"}), unnamed, named)

	change := func(run func()) {
		b.fill(dir, 0)
		run()
	}
	unnamed.around, named.around = change, change
	b.compare(sides(row{id: "h.2", what: "the same, one file changed"}), unnamed, named)
}

// fill writes a file of the context with bytes that were never there before.
func (b *bench) fill(dir string, i int) {
	dt := make([]byte, contextFile)
	_, err := rand.Read(dt)
	b.Must(err)
	b.write(dir, fmt.Sprintf("file%d", i), string(dt))
}
