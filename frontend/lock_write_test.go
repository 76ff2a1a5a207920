package frontend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/internal/fakegateway"
)

// written returns the lock that a build wrote, and what it said.
func written(t *testing.T, b *fakegateway.Builder, what fakegateway.Build, mode string) (text string, said []string) {
	t.Helper()
	res := build(t, b, with(what, "build-arg:LOCALFRONT_LOCK", mode))
	def := res.Refs[""]
	for _, op := range ops(t, def) {
		for _, a := range op.GetFile().GetActions() {
			text = string(a.GetMkfile().GetData())
		}
	}
	for _, dt := range def.Def {
		if name := def.Metadata[digest.FromBytes(dt).String()].GetDescription()["llb.customname"]; name != "" {
			said = append(said, name)
		}
	}
	return text, said
}

// pins returns what a lock pins, names as people write them.
func pins(t *testing.T, text string) map[string]string {
	t.Helper()
	f, err := lockfile.Parse("Dockerfile.lock", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	out := map[string]string{}
	for _, e := range f.Entries() {
		out[short(e.Key)] = e.Value
	}
	return out
}

// many is a Dockerfile with each way to name an image, in stages that the last
// does not need.
const many = `ARG V=1
FROM base:$V AS one
FROM base:2
RUN --mount=from=base:3,target=/m true
FROM one
COPY --from=base:4 /f /f
FROM onbuild
FROM scratch
COPY --from=base:5@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 /f /f
`

func stocked() *fakegateway.Builder {
	b := fakegateway.NewBuilder()
	both := []string{"linux/amd64", "linux/arm64"}
	for i := range 9 {
		b.Registry.Push(fmt.Sprintf("base:%d", i), fakegateway.Image{Content: fmt.Sprint(i), Platforms: both})
	}
	b.Registry.Push("onbuild", fakegateway.Image{OnBuild: []string{"COPY --from=base:6 /f /f"}, Platforms: both})
	b.Registry.Push("ghcr.io/org/localfront:latest", fakegateway.Image{Content: "localfront"})
	return b
}

func TestLockAllStages(t *testing.T) {
	t.Parallel()
	b := stocked()
	b.Registry.Push("base:5", fakegateway.Image{})
	what := with(dockerfile(strings.Replace(many, "FROM scratch\nCOPY --from=base:5@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 /f /f\n", "FROM scratch\n", 1)),
		"platform", "linux/amd64,linux/arm64", "build-arg:V", "7", "target", "one")
	text, said := written(t, b, what, "update")
	var names []string
	for _, e := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(e, "[image."); ok {
			names = append(names, strings.Trim(name, `"]`))
		}
	}
	equal(t, "names", names, []string{
		"docker.io/library/base:2", "docker.io/library/base:3", "docker.io/library/base:4", "docker.io/library/base:6", "docker.io/library/base:7",
		"docker.io/library/onbuild:latest", "ghcr.io/org/localfront:latest",
	})
	equal(t, "the last line said", said[len(said)-1], "[Dockerfile.lock] 7 pins, 0 of them as before")
	again, said := written(t, b, beside(what, "Dockerfile.lock", text), "update")
	equal(t, "written again", again, text)
	equal(t, "said then", said, []string{"[Dockerfile.lock] 7 pins, 7 of them as before"})
}

// What a tag was remembered as does not matter to who asks for it anew.
func TestWritingStartsNoContainers(t *testing.T) {
	t.Parallel()
	b := stocked()
	text, _ := written(t, b, dockerfile("FROM base:1\nFROM base:2\nRUN true\n"), "update")
	equal(t, "containers", b.Containers(), []string{"/agent localfront/v1 results"})
	equal(t, "pins", len(pins(t, text)), 3)
}

func TestLockWrites(t *testing.T) {
	t.Parallel()
	one := dockerfile("FROM base:1\nFROM base:2\n")
	tests := []struct {
		name, mode string
		had        []string // names, each pinned to something old
		has        []string // names that are in the lock afterwards, + where pinned anew
		said       []string // parts of what was said
	}{
		{name: "update", mode: "update", had: []string{"base:1", "gone"}, has: []string{"+base:1", "+base:2", "+ghcr.io/org/localfront:latest"}, said: []string{"base:1: sha256:", "base:2: new, sha256:", "gone:latest: removed, nothing uses it"}},
		{name: "add", mode: "add", had: []string{"base:1", "gone"}, has: []string{"base:1", "+base:2", "+ghcr.io/org/localfront:latest", "gone:latest"}, said: []string{"base:2: new, sha256:"}},
		{name: "one", mode: "base:1", had: []string{"base:1", "gone"}, has: []string{"+base:1", "gone:latest"}, said: []string{"base:1: sha256:"}},
		{name: "two", mode: "base:1,docker.io/library/base:2", had: []string{"gone"}, has: []string{"+base:1", "+base:2", "gone:latest"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := stocked()
			old := b.Registry.Push("base:1", fakegateway.Image{Content: "old"}).String()
			b.Registry.Push("base:1", fakegateway.Image{Content: "new"})
			var entries []string
			for _, name := range tt.had {
				entries = append(entries, "image", name, old)
			}
			text, said := written(t, b, beside(one, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", entries...)), tt.mode)
			got := pins(t, text)
			equal(t, "number of pins", len(got), len(tt.has))
			for _, name := range tt.has {
				bare := strings.TrimPrefix(name, "+")
				if got[bare] == "" || (got[bare] != old) != (bare != name) {
					t.Errorf("%s is pinned to %q", name, got[bare])
				}
			}
			for _, part := range tt.said {
				if !strings.Contains(strings.Join(said, "\n"), part) {
					t.Errorf("nothing says %q:\n%s", part, strings.Join(said, "\n"))
				}
			}
		})
	}
}

// A folder's lock may serve Dockerfiles that this build knows nothing of.
func TestUpdateKeepsWhatOthersUse(t *testing.T) {
	t.Parallel()
	b := stocked()
	had := lockOf(t, "Dockerfile.lock", "image", "elsewhere:1", "sha256:"+strings.Repeat("a", 64))
	what := with(beside(simple, "Dockerfile.lock", had, "Other.Dockerfile", "FROM base:1\n"), "filename", "Other.Dockerfile")
	text, _ := written(t, b, what, "update")
	if got := pins(t, text); got["elsewhere:1"] == "" || got["base:1"] == "" {
		t.Errorf("pins %v", got)
	}
}

func TestUpdateMendsABadLock(t *testing.T) {
	t.Parallel()
	b := stocked()
	what := beside(dockerfile("FROM base:1\n"), "Dockerfile.lock", "<<<<<<< HEAD\n")
	text, _ := written(t, b, what, "update")
	equal(t, "pins", len(pins(t, text)), 2)
	equal(t, "warnings", b.Warnings(), []string{"Dockerfile.lock is written anew: merge conflict markers"})
	_, err := run(t, b, with(what, "build-arg:LOCALFRONT_LOCK", "add"))
	if err == nil || !strings.HasPrefix(err.Error(), "Dockerfile.lock:1: merge conflict markers") {
		t.Errorf("add: error %v", err)
	}
	_, err = run(t, b, with(beside(what, "Dockerfile.lock", "FROM base:2\n"), "build-arg:LOCALFRONT_LOCK", "update"))
	if err == nil || !strings.HasPrefix(err.Error(), "Dockerfile.lock:1: this is a Dockerfile and no lock") {
		t.Errorf("update of a Dockerfile: error %v", err)
	}
}

func TestNamesThatTheDockerfileHasNot(t *testing.T) {
	t.Parallel()
	b := stocked()
	_, err := run(t, b, with(dockerfile("FROM base:1\n"), "build-arg:LOCALFRONT_LOCK", "updte"))
	fails(t, err, `build arg: option "LOCALFRONT_LOCK=updte": Dockerfile takes nothing by the name "updte": did you mean update?`, "")
}

// A lock is committed and errors are logged: neither tells a secret.
func TestLockTellsNoSecret(t *testing.T) {
	t.Parallel()
	token := "ghp_" + strings.Repeat("a1B2", 9)
	b := stocked()
	add := func(words, lines string) fakegateway.Build {
		what := dockerfile("FROM base:1\n"+lines, words)
		return with(what, "build-arg:PART", "a-secret-part", "build-arg:TOKEN", token, "build-arg:V", "1", "context:src", "https://me:a-secret@example.com/x.git")
	}
	for _, tt := range []struct {
		name, want string
		what       fakegateway.Build
	}{
		{
			"build args in credentials, tokens, and a context with credentials",
			"does not pin base:1 (line 1), https://example.com/1 (line 4), https://example.com/?x=… (line 4), https://example.com/x (line 3): docker build --build-arg PART --build-arg TOKEN --build-arg V=1 --build-context 'src=https://…@example.com/x.git' --build-arg LOCALFRONT_LOCK=add -o . .",
			add("locked", "ARG PART TOKEN V\nADD https://me:${PART}@example.com/x /\nADD https://example.com/$V https://example.com/?x=$TOKEN /\n"),
		},
		{
			"a name of the command line", `"https://…@example.com/y"`,
			with(add("", "ADD https://example.com/x /\n"), "build-arg:LOCALFRONT_LOCK", "https://me:a-secret@example.com/y"),
		},
		{
			"a token in an address", "https://example.com/?x=… (line 3) has what looks like a token in its address",
			with(add("", "ARG TOKEN\nADD https://example.com/?x=$TOKEN /\n"), "build-arg:LOCALFRONT_LOCK", "update"),
		},
	} {
		_, err := run(t, b, tt.what)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "a-secret") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.want)
		}
	}
}

func TestLockedNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	const text = "ARG V=1\nFROM base:$V AS a\nFROM base:2 AS b\nCOPY --from=base:2 /f /f\nADD https://example.com/x /\nFROM a\nRUN true\n"
	b := stocked()
	what := with(dockerfile(text, "locked"), "build-arg:V", "3", "build-arg:SECRET", "s", "platform", "linux/arm64")
	_, err := run(t, b, what)
	fails(t, err, "locked is set and Dockerfile.lock, which does not exist, does not pin base:2 (lines 3, 4), base:3 (line 2), https://example.com/x (line 5): "+
		"docker build --platform linux/arm64 --build-arg V=3 --build-arg LOCALFRONT_LOCK=add -o . .", "Dockerfile:3")
	equal(t, "requests", b.Requests(), nil)

	var entries []string
	for _, name := range []string{"base:2", "base:3"} {
		entries = append(entries, "image", name, b.Registry.Push(name, fakegateway.Image{Platforms: []string{"linux/arm64"}}).String())
	}
	what = beside(what, "Dockerfile.lock", lockOf(t, "Dockerfile.lock", entries...))
	build(t, b, what) // what this target takes is pinned

	_, err = run(t, b, with(what, "target", "b"))
	fails(t, err, "locked is set and Dockerfile.lock does not pin https://example.com/x (line 5): "+
		"docker build --platform linux/arm64 --build-arg V=3 --build-arg LOCALFRONT_LOCK=add -o . .", "Dockerfile:5")
}

// A name that a build here was given needs a pin as well, and adding what is
// missing cannot give it one: the error says what does.
func TestLockedNamesWhatWasBuiltHere(t *testing.T) {
	t.Parallel()
	const where = "base:1 (line 1), built on this builder under that name: name the build localhost/… instead, which needs no pin, or pin what a registry has: " +
		"docker build --build-arg LOCALFRONT_LOCK=base:1 -o . ."
	b := stocked()
	build(t, b, dockerfile("FROM scratch\nCOPY file /\n", "name=base:1"))
	what := dockerfile("FROM base:1\nCOPY --from=base:2 / /\n", "locked")
	_, err := run(t, b, what)
	fails(t, err, "locked is set and Dockerfile.lock, which does not exist, does not pin base:2 (line 2): "+
		"docker build --build-arg LOCALFRONT_LOCK=add -o . .; nor "+where, "Dockerfile:2")

	added, _ := written(t, b, what, "add")
	_, err = run(t, b, beside(what, "Dockerfile.lock", added))
	fails(t, err, "locked is set and Dockerfile.lock does not pin "+where, "Dockerfile:1")

	pinned, _ := written(t, b, beside(what, "Dockerfile.lock", added), "base:1")
	equal(t, "pins", len(pins(t, pinned)), 3)
	build(t, b, beside(what, "Dockerfile.lock", pinned))
}
