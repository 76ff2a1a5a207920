package main

// locked is case (g): a Dockerfile.lock pins the base, and the build insists on
// it.
func locked(b *bench) {
	theirs := b.project(b.theirs, usual...)
	ours := b.project(b.ours+" locked", usual...)
	b.build(ours, "--build-arg=LOCALFRONT_LOCK=update", "--output="+ours)
	b.compare(row{id: "g.1", what: "locked, warm", target: "≤ 1.00"}, b.building(theirs), b.building(ours))
	b.far(func() {
		b.compare(row{id: "g.2", what: "locked, warm, 50 ms a request, token", target: "≤ 0.50"}, b.building(theirs), b.building(ours))
	})
	b.compare(row{id: "g.3", what: "locked, first build on a builder", target: "≤ 1.15"}, b.onNewBuilder(theirs), b.onNewBuilder(ours))
}
