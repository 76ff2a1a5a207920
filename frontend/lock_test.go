package frontend

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/internal/fakegateway"
)

const commit = "cccccccccccccccccccccccccccccccccccccccc"

// lockOf returns the text of a lock that pins names, given as kind, name, value.
func lockOf(t *testing.T, name string, entries ...string) string {
	t.Helper()
	f := lockfile.New(name)
	for i := 0; i < len(entries); i += 3 {
		k, err := lockfile.NewKey(lockfile.Kind(entries[i]), entries[i+1])
		if err != nil {
			t.Fatal(err)
		}
		f.Put(lockfile.Entry{Key: k, Value: entries[i+2]})
	}
	return string(f.Format())
}

// beside returns what with files beside the Dockerfile, given as name, text.
func beside(what fakegateway.Build, files ...string) fakegateway.Build {
	what.Locals = maps.Clone(what.Locals)
	what.Locals["dockerfile"] = maps.Clone(what.Locals["dockerfile"])
	for i := 0; i < len(files); i += 2 {
		what.Locals["dockerfile"][files[i]] = files[i+1]
	}
	return what
}

// moved returns a builder whose registry has moved alpine, and the digests
// before and after.
func moved(t *testing.T) (b *fakegateway.Builder, was, now digest.Digest) {
	t.Helper()
	b = fakegateway.NewBuilder()
	was = b.Registry.Push(alpine, fakegateway.Image{})
	now = b.Registry.Push(alpine, fakegateway.Image{Content: "new"})
	return b, was, now
}

func TestLockedNameIsTakenByItsDigest(t *testing.T) {
	t.Parallel()
	b, was, _ := moved(t)
	what := beside(simple, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
	res := build(t, b, what)
	equal(t, "source", from(res), "docker-image://"+alpine+"@"+was.String())
	equal(t, "requests", b.Requests(), []string{
		"HEAD " + alpine + "@" + was.String(),
		"GET docker.io/library/alpine index",
		"GET docker.io/library/alpine manifest linux/amd64",
		"GET docker.io/library/alpine config linux/amd64",
		alpineLayer,
	})
	equal(t, "progress", b.Calls(fakegateway.Resolve)[0].Line, "[internal] alpine:3.20 from Dockerfile.lock, from registry")
	b.Restart()
	res = build(t, b, what)
	equal(t, "requests when warm", b.Requests(), nil)
	equal(t, "source when warm", from(res), "oci-layout://"+alpine+"@"+was.String())
	equal(t, "progress when warm", b.Calls(fakegateway.Resolve)[0].Line, "[internal] alpine:3.20 from Dockerfile.lock")
	equal(t, "requests offline", requests(t, b, with(what, "build-arg:LOCALFRONT_OFFLINE", "1")), nil)
	equal(t, "requests of --pull", requests(t, b, with(what, "image-resolve-mode", "pull")), nil)
	equal(t, "requests on the docker driver", requests(t, b, with(what, "image-resolve-mode", "local")), nil)
}

// What a builder has to run for a locked name that it has never seen.
func TestContainersOfAFirstLockedBuild(t *testing.T) {
	t.Parallel()
	const (
		results = "/agent localfront/v1 results"
		step    = "/bin/sh -c true"
	)
	tests := []struct {
		name, provenance string
		first            []string // DIGEST stands for the key of the digest
	}{
		// Where the layers are seen here, that is remembered of the digest.
		{name: "without provenance", first: []string{results, step, "DIGEST", "DIGEST"}},
		// Images stay with their registry, so it does not matter where they are.
		{name: "with provenance", provenance: "mode=min", first: []string{results, step}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, was, _ := moved(t)
			what := beside(dockerfile("FROM alpine:3.20\nRUN true\n", "locked"), "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
			if tt.provenance != "" {
				what = with(what, keyProvenance, tt.provenance)
			}
			build(t, b, what)
			var ran []string
			for _, c := range b.Containers() {
				ran = append(ran, strings.Replace(c, "/agent localfront/v1 docker.io/library/alpine@"+was.String(), "DIGEST", 1))
			}
			slices.Sort(ran)
			equal(t, "containers of the first build", ran, tt.first)
			build(t, b, what)
			equal(t, "containers of the second build", b.Containers(), nil)
		})
	}
}

// A named result of a locked name is passed over, and says so.
func TestLockPassesNamedResultsOver(t *testing.T) {
	t.Parallel()
	for _, provenance := range []bool{false, true} {
		b, was, _ := moved(t)
		build(t, b, with(dockerfile("FROM scratch\nCOPY file /\n"), "build-arg:LOCALFRONT_NAME", "alpine:3.20"))
		what := beside(dockerfile("FROM alpine:3.20 AS a\nFROM alpine:3.20\nCOPY --from=a / /a\n"), "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
		if provenance {
			what = with(what, keyProvenance, "mode=min")
		}
		res := build(t, b, what)
		equal(t, "source", strings.Contains(from(res), was.String()), true)
		equal(t, "warnings", b.Warnings(), []string{"alpine:3.20: Dockerfile.lock pins it, so what was built here under that name less than a second ago is passed over: to use it, take the entry out of Dockerfile.lock"})
		build(t, b, with(what, "build-arg:LOCALFRONT_NAME", "alpine:3.20"))
		equal(t, "warnings of a build of that name", b.Warnings(), nil)
	}
}

// requests builds and returns what the registry was asked.
func requests(t *testing.T, b *fakegateway.Builder, what fakegateway.Build) []string {
	t.Helper()
	b.Restart()
	build(t, b, what)
	return b.Requests()
}

// Neither has memory a say in what a locked name means, nor the lock in what is
// remembered.
func TestLockAndMemoryKeepApart(t *testing.T) {
	t.Parallel()
	b, was, now := moved(t)
	build(t, b, simple)
	what := beside(simple, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
	for range 2 {
		b.Restart()
		equal(t, "digest of the locked build", strings.Contains(from(build(t, b, what)), was.String()), true)
		b.Restart()
		equal(t, "digest of the other build", strings.Contains(from(build(t, b, simple)), now.String()), true)
	}
	equal(t, "what is remembered", recall(t, b, alpine).Digest, now)
}

// Whatever the ledger says of the locked digest, the build is the same.
func TestLockIsDeafToTheLedger(t *testing.T) {
	t.Parallel()
	b, was, now := moved(t)
	what := beside(simple, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
	build(t, b, what)
	for _, img := range []ledger.Image{
		{Digest: now},
		{Digest: was, Platforms: map[string]ledger.Platform{"linux/amd64": {Layers: 7, Content: ledger.Here}}},
		{Digest: was, Platforms: map[string]ledger.Platform{"linux/amd64": {Layers: 1, Content: ledger.Elsewhere}}},
		{Digest: was, Platforms: map[string]ledger.Platform{"linux/arm64": {Layers: 1, Content: ledger.Here}}},
	} {
		for _, key := range []string{alpine, "docker.io/library/alpine@" + was.String()} {
			remember(t, b, key, img)
			src := from(build(t, b, what))
			_, ref, _ := strings.Cut(src, "://")
			equal(t, "source", ref, alpine+"@"+was.String())
		}
	}
}

func TestWhichLockIsRead(t *testing.T) {
	t.Parallel()
	pin := func(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }
	file := func(name, d string) []string { return []string{name, lockOf(t, name, "image", alpine, d)} }
	tests := []struct {
		name     string
		filename string
		files    []string
		want     string // the digest of alpine
		warnings []string
	}{
		{name: "none", filename: "Other.Dockerfile"},
		{name: "its own", filename: "Other.Dockerfile", files: append(file("Other.Dockerfile.lock", pin("a")), file("Dockerfile.lock", pin("b"))...), want: pin("a")},
		{name: "the folder's", filename: "Other.Dockerfile", files: file("Dockerfile.lock", pin("b")), want: pin("b")},
		{name: "another's", filename: "Other.Dockerfile", files: file("Third.Dockerfile.lock", pin("b"))},
		{name: "in its folder", filename: "sub/Other.Dockerfile", files: append(file("sub/Other.Dockerfile.lock", pin("a")), file("Dockerfile.lock", pin("b"))...), want: pin("a")},
		{name: "another folder's", filename: "sub/Other.Dockerfile", files: file("Dockerfile.lock", pin("b"))},
		{
			name: "its own is empty", filename: "Other.Dockerfile", files: append([]string{"Other.Dockerfile.lock", ""}, file("Dockerfile.lock", pin("b"))...), want: pin("b"),
			warnings: []string{"Other.Dockerfile.lock is empty, so it counts as absent: docker build -f Other.Dockerfile --build-arg LOCALFRONT_LOCK=update -o . ."},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			what := with(beside(simple, append(tt.files, tt.filename, simple.Locals["dockerfile"]["Dockerfile"], "sub/x", "")...), "filename", tt.filename)
			_, err := run(t, b, what)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s, which no registry has", err, tt.want)
			}
			equal(t, "warnings", b.Warnings(), tt.warnings)
		})
	}
}

// The lock comes in the transfer of the Dockerfile: the same solves, and no
// call more than two, which nobody waits for.
func TestLockCostsNoSolve(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	d := b.Registry.Push(alpine, fakegateway.Image{})
	count := func(what fakegateway.Build) (n int) {
		build(t, b, what)
		for _, c := range b.Calls(fakegateway.Solve) {
			if !strings.Contains(c.What, "agent") {
				n++
			}
		}
		return n
	}
	what := beside(simple, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, d.String()))
	for range 2 {
		count(simple)
		count(what)
	}
	without, warm := count(simple), count(what)
	equal(t, "solves with a lock, and without one", warm, without)
	equal(t, "folders listed", len(b.Calls(fakegateway.List)), 1)
}

// What BuildKit's frontend warns of stays at the vertex that was solved.
func TestWarningsFollowTheVertex(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, dockerfile("from alpine:3.20\nRUN true\n"))
	solves := b.Calls(fakegateway.Solve)
	// .dockerignore is loaded at the same time.
	first := solves[slices.IndexFunc(solves, func(c fakegateway.Call) bool { return c.What == "local://dockerfile" })].Definition
	solved := digest.FromBytes(first.Def[0]).String()
	warnings := b.Calls(fakegateway.Warn)
	if len(warnings) == 0 {
		t.Fatal("no warning of the lower-case instruction")
	}
	for _, w := range warnings {
		equal(t, "vertex of "+w.What, w.Warning.Digest, solved)
	}
	op := &pb.Op{}
	if err := op.UnmarshalVT(first.Def[0]); err != nil {
		t.Fatal(err)
	}
	equal(t, "files", op.GetSource().Attrs[pb.AttrFollowPaths], `["Dockerfile","Dockerfile.dockerignore","dockerfile","Dockerfile.lock"]`)
}

func TestBadLocks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, dockerfile string
		filename         string
		files            []string
		err, where       string
	}{
		{
			name: "that of the folder", filename: "Other.Dockerfile", files: []string{"Other.Dockerfile", "FROM alpine:3.20\n", "Dockerfile.lock", "version = 1\n<<<<<<< HEAD\n"},
			err:   "Dockerfile.lock:2: merge conflict markers: keep what both sides have and remove the markers, or write it anew: docker build -f Other.Dockerfile --build-arg LOCALFRONT_LOCK=update -o . .",
			where: "Dockerfile.lock:2",
		},
		{
			name: "merge conflict", files: []string{"Dockerfile.lock", "version = 1\n<<<<<<< HEAD\n"},
			err:   "Dockerfile.lock:2: merge conflict markers: keep what both sides have and remove the markers, or write it anew: docker build --build-arg LOCALFRONT_LOCK=update -o . .",
			where: "Dockerfile.lock:2",
		},
		{
			name: "nothing to pin", dockerfile: "FROM scratch\nCOPY file /\n", files: []string{"Dockerfile.lock", "version = 2\n"},
			err:   "Dockerfile.lock:1: version 2 is newer than this localfront, which reads version 1: use a newer localfront in the # syntax= line, or write all of it anew: docker build --build-arg LOCALFRONT_LOCK=update -o . .",
			where: "Dockerfile.lock:1",
		},
		{
			name: "a directory", files: []string{"Dockerfile.lock/x", "y"},
			err: "Dockerfile.lock: it is a directory: remove it, then: docker build --build-arg LOCALFRONT_LOCK=update -o . .",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			what := simple
			if tt.dockerfile != "" {
				what = dockerfile(tt.dockerfile)
			}
			what = beside(what, tt.files...)
			if tt.filename != "" {
				what = with(what, "filename", tt.filename)
			}
			_, err := run(t, b, what)
			fails(t, err, tt.err, tt.where)
			equal(t, "requests", b.Requests(), nil)
		})
	}
}

// addressed are a file and a repository.
const addressed = "FROM scratch\nADD https://example.com/tool.tgz /\nADD https://github.com/org/repo.git#v1:dir /src/\n"

func TestLockedRemotes(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	sum := digest.FromString("tool").String()
	text := lockOf(t, "Dockerfile.lock", "http", "https://example.com/tool.tgz", sum, "git", "https://github.com/org/repo.git#v1", commit)
	res := build(t, b, beside(dockerfile(addressed), "Dockerfile.lock", text))
	var got []string
	for _, op := range ops(t, res.Refs[""]) {
		if src := op.GetSource(); src != nil {
			got = append(got, src.Identifier+" "+src.Attrs[pb.AttrHTTPChecksum])
		}
	}
	equal(t, "sources", got, []string{"https://example.com/tool.tgz " + sum, "git://github.com/org/repo.git#" + commit + ":dir "})

	plain := build(t, b, dockerfile(addressed))
	for _, op := range ops(t, plain.Refs[""]) {
		if src := op.GetSource(); src != nil && (src.Attrs[pb.AttrHTTPChecksum] != "" || strings.Contains(src.Identifier, commit)) {
			t.Errorf("without a lock: %s", src)
		}
	}
}

func TestPoliciesGovernLockedNames(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]string{nil, {keyProvenance, "mode=min"}} {
		testPoliciesGovernLockedNames(t, with(simple, opts...))
	}
}

func testPoliciesGovernLockedNames(t *testing.T, what fakegateway.Build) {
	t.Helper()
	b, was, now := moved(t)
	what = beside(what, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", alpine, was.String()))
	b.Policy = policy(&spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: "docker-image://" + alpine}})
	if _, err := run(t, b, what); err == nil || !strings.Contains(err.Error(), "denied by policy") {
		t.Errorf("the tag is denied, and the build was not: %v", err)
	}
	b.Policy = policy(&spb.Rule{
		Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: "docker-image://" + alpine},
		Updates: &spb.Update{Identifier: "docker-image://" + alpine + "@" + now.String()},
	})
	_, err := run(t, b, what)
	fails(t, err, "alpine:3.20: a source policy of this build makes "+now.String()+" of alpine:3.20, which Dockerfile.lock pins to "+was.String()+
		": change the policy, or build with LOCALFRONT_LOCK=alpine:3.20 under it", "Dockerfile:1")
}

// Sources of another build are a matter of that build's lock.
func TestInputsNeedNoLock(t *testing.T) {
	t.Parallel()
	def, err := llb.Scratch().File(llb.Copy(llb.HTTP("https://example.com/other"), "other", "/")).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := fakegateway.NewBuilder()
	what := with(dockerfile("FROM base\nCOPY file /\n", "locked"), "context:base", "input:base")
	what.Inputs = map[string]*pb.Definition{"base": def.ToPB()}
	build(t, b, what)
}
