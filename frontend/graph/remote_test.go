package graph

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

const someCommit = "cccccccccccccccccccccccccccccccccccccccc"

// definition returns the definition of a state.
func definition(t *testing.T, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

// added returns a state that takes sources, each by a step of its own.
func added(sources ...llb.State) llb.State {
	st := llb.Scratch()
	for _, src := range sources {
		st = st.File(llb.Copy(src, "/", "/"))
	}
	return st
}

func TestRemotes(t *testing.T) {
	t.Parallel()
	def := definition(t, added(
		llb.HTTP("https://example.com/a"),
		llb.HTTP("http://example.com/b", llb.Checksum(digest.FromString("b"))),
		llb.Git("https://github.com/org/repo.git", "v1:dir"),
		llb.Git("https://github.com/org/repo.git", ""),
		llb.Git("https://github.com/org/repo.git", someCommit),
		llb.Git("https://github.com/org/repo.git", "v2", llb.GitChecksum(someCommit)),
		llb.Image("alpine:3.20"),
		llb.Local("context"),
	))
	got, err := Remotes(def)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for i := range got {
		ids[got[i].ID] = true
		got[i].ID, got[i].Op = "", nil
	}
	want := []Remote{
		{Address: "https://example.com/a"},
		{Address: "http://example.com/b", Pinned: true},
		{Git: true, Address: "https://github.com/org/repo.git", Ref: "v1"},
		{Git: true, Address: "https://github.com/org/repo.git"},
		{Git: true, Address: "https://github.com/org/repo.git", Ref: someCommit, Pinned: true},
		{Git: true, Address: "https://github.com/org/repo.git", Ref: "v2", Pinned: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(ids) != len(want) {
		t.Errorf("%d IDs for %d sources", len(ids), len(want))
	}
}

func TestPin(t *testing.T) {
	t.Parallel()
	sum := digest.FromString("a")
	pin := func(r Remote) (string, error) {
		if r.Git {
			return someCommit, nil
		}
		return sum.String(), nil
	}
	def := definition(t, added(
		llb.HTTP("https://example.com/a", llb.Filename("x")),
		llb.HTTP("https://example.com/b", llb.Checksum(digest.FromString("b"))),
		llb.Git("https://github.com/org/repo.git", "v1:dir", llb.KeepGitDir()),
		llb.Git("https://github.com/org/other.git", ""),
	))
	want := definition(t, added(
		llb.HTTP("https://example.com/a", llb.Filename("x"), llb.Checksum(sum)),
		llb.HTTP("https://example.com/b", llb.Checksum(digest.FromString("b"))),
		llb.Git("https://github.com/org/repo.git", someCommit+":dir", llb.KeepGitDir()),
		llb.Git("https://github.com/org/other.git", someCommit),
	))
	got, err := Pin(def, pin)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Def, got.Def); diff != "" {
		t.Errorf("it is not what the Dockerfile would have said:\n%s", diff)
	}
	for d, m := range want.Metadata {
		if diff := cmp.Diff(m.Caps, got.Metadata[d].GetCaps()); diff != "" {
			t.Errorf("capabilities (-want +got):\n%s", diff)
		}
	}
}

func TestPinNothing(t *testing.T) {
	t.Parallel()
	def := definition(t, added(llb.HTTP("https://example.com/a")))
	got, err := Pin(def, func(Remote) (string, error) { return "", nil })
	if got != def || err != nil {
		t.Errorf("the definition was replaced, error %v", err)
	}
	bad := errors.New("no")
	if _, err := Pin(def, func(Remote) (string, error) { return "", bad }); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	local := llb.Local("dockerfile", llb.FollowPaths([]string{"Dockerfile"}), llb.SessionID("s"))
	def := definition(t, local)
	got, err := Follow(def, "Dockerfile.lock", "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	want := definition(t, llb.Local("dockerfile", llb.FollowPaths([]string{"Dockerfile", "Dockerfile.lock"}), llb.SessionID("s")))
	if diff := cmp.Diff(want.Def, got.Def); diff != "" {
		t.Error(diff)
	}
	if got.Was != digest.FromBytes(def.Def[0]) || got.Now != digest.FromBytes(want.Def[0]) {
		t.Errorf("digests %s and %s", got.Was, got.Now)
	}
	for name, st := range map[string]llb.State{
		"a whole folder": llb.Local("dockerfile"),
		"a repository":   llb.Git("https://github.com/org/repo.git", "main"),
		"an input":       added(local),
	} {
		def := definition(t, st)
		got, err := Follow(def, "Dockerfile.lock")
		if err != nil || got.Definition != def || got.Was != got.Now {
			t.Errorf("%s was changed, error %v", name, err)
		}
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	text := []byte("FROM alpine:3.20\nADD https://example.com/a /\n")
	smap := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", text)
	line := func(n int32) llb.ConstraintsOpt {
		return smap.Location([]*pb.Range{{Start: &pb.Position{Line: n}, End: &pb.Position{Line: n}}})
	}
	st := llb.Image("docker.io/library/alpine:3.20", line(1)).File(llb.Copy(llb.HTTP("https://example.com/a"), "a", "/"), line(2))
	def := definition(t, st)
	got, err := Places(def)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]int32{}
	for k, ranges := range got {
		k, _, _ = strings.Cut(k, "\x00")
		for _, r := range ranges {
			lines[k] = append(lines[k], r.Start.Line)
		}
	}
	if diff := cmp.Diff(map[string][]int32{"docker.io/library/alpine:3.20": {1}, "https://example.com/a": {2}}, lines); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
