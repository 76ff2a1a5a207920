package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/internal/fakegateway"
)

// build is one build of a builder: a session with contexts.
type build struct {
	Solver
	end    func()
	before func() // called before each tree is taken, if set
}

func (b *build) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Evaluate && b.before != nil {
		b.before()
	}
	return b.Solver.Solve(ctx, req)
}

// start starts a build with contexts, by name and file, that ends with the test.
func start(t *testing.T, b *fakegateway.Builder, locals map[string]map[string]string) (*build, *Freezer) {
	t.Helper()
	s := b.Session(fakegateway.Build{Locals: locals})
	t.Cleanup(s.Close)
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	started := &build{Solver: c, end: s.Close}
	f, err := New(started)
	if err != nil {
		t.Fatal(err)
	}
	return started, f
}

// contexts is a definition that uses contexts.
func (b *build) contexts(t *testing.T, names ...string) *pb.Definition {
	t.Helper()
	st := llb.Image("docker.io/library/alpine@sha256:" + strings.Repeat("a", 64))
	for _, name := range names {
		ctx := llb.Local(name,
			llb.SessionID(b.BuildOpts().SessionID), llb.SharedKeyHint("hint "+name),
			llb.ExcludePatterns([]string{"*.tmp"}), llb.FollowPaths([]string{"f"}),
			llb.WithCustomName("[internal] load "+name))
		st = st.File(llb.Copy(ctx, "/f", "/"+name))
	}
	def, err := st.Marshal(t.Context(), llb.Platform(ocispecs.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

func mustFreeze(t *testing.T, f *Freezer, def *pb.Definition) *pb.Definition {
	t.Helper()
	before := def.CloneVT()
	out, err := f.Freeze(t.Context(), def)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(def, before) {
		t.Error("the definition given was changed")
	}
	return out
}

// containers lists what containers ran, digests left out, and forgets them.
func containers(b *fakegateway.Builder) []string {
	var out []string
	for _, c := range b.Calls(fakegateway.Container) {
		out = append(out, strings.Join(strings.Fields(c.What)[:2], " "))
	}
	slices.Sort(out)
	b.ClearLog()
	return out
}

func wantContainers(t *testing.T, b *fakegateway.Builder, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, containers(b)); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
}

const (
	keep = "/freeze keep"
	take = "/freeze take"
	lend = "/freeze lend"
)

var one = map[string]map[string]string{"context": {"f": "1"}}

func TestFreeze(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	s, f := start(t, b, one)
	out := mustFreeze(t, f, s.contexts(t, "context"))
	wantContainers(t, b, keep, take)
	if strings.Contains(fmt.Sprint(out), s.BuildOpts().SessionID) {
		t.Errorf("the session is still in it:\n%v", out)
	}
	locals, err := graph.Sources(out, localScheme)
	if err != nil || len(locals) > 0 {
		t.Errorf("local sources %v, error %v", locals, err)
	}

	// Another session, with the same files and then with others.
	s, f = start(t, b, one)
	if again := mustFreeze(t, f, s.contexts(t, "context")); !proto.Equal(again, out) {
		t.Error("the same files make another definition")
	}
	wantContainers(t, b)
	s, f = start(t, b, map[string]map[string]string{"context": {"f": "2"}})
	if other := mustFreeze(t, f, s.contexts(t, "context")); proto.Equal(other, out) {
		t.Error("other files make the same definition")
	}
	wantContainers(t, b, keep, take)
}

// What is frozen is what the build asks for: the source keeps its attributes
// and its name in the progress.
func TestFreezeKeepsAttributes(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	s, f := start(t, b, one)
	def := s.contexts(t, "context")
	locals, err := graph.Sources(def, localScheme)
	if err != nil {
		t.Fatal(err)
	}
	mustFreeze(t, f, def)
	sent := b.Calls(fakegateway.Solve)[0].Definition
	got, err := graph.Sources(sent, localScheme)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d local sources, error %v", len(got), err)
	}
	if !proto.Equal(got[0].Op, locals[0].Op) {
		t.Errorf("the source is %v, want %v", got[0].Op, locals[0].Op)
	}
	meta, want := sent.Metadata[got[0].Digest], def.Metadata[locals[0].Digest]
	if meta.ProgressGroup != nil || meta.Description["llb.customname"] != want.Description["llb.customname"] {
		t.Errorf("its metadata is %v, want %v", meta, want)
	}
	for digest, meta := range sent.Metadata {
		if digest != got[0].Digest && meta.Description["llb.customname"] != "" && !meta.ProgressGroup.GetWeak() {
			t.Errorf("%v is seen in the progress", meta)
		}
	}
}

func TestFreezeAllAtOnce(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	names := []string{"context", "one", "two"}
	locals := map[string]map[string]string{}
	for _, name := range names {
		locals[name] = map[string]string{"f": name}
	}
	s, f := start(t, b, locals)
	// Each waits for the others before it takes: one by one they never would.
	var all sync.WaitGroup
	all.Add(len(names))
	s.before = func() { all.Done(); all.Wait() }
	def := s.contexts(t, names...)
	out := mustFreeze(t, f, def)
	wantContainers(t, b, keep, keep, keep, take, take, take)
	s.before = nil
	for range 20 {
		if !proto.Equal(mustFreeze(t, f, def), out) {
			t.Fatal("the same contexts make another definition")
		}
	}
}

func TestFreezeWithoutContexts(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	s, f := start(t, b, nil)
	for _, def := range []*pb.Definition{nil, {}, s.contexts(t)} {
		out, err := f.Freeze(t.Context(), def)
		if err != nil || out != def {
			t.Errorf("another definition, or error %v", err)
		}
	}
	if calls := b.Calls(fakegateway.Solve); len(calls) > 0 {
		t.Errorf("%d solves", len(calls))
	}
}

// What garbage collection, or somebody with access to the mount, can do between
// the two steps and between two builds.
func TestFreezeHeals(t *testing.T) {
	t.Parallel()
	once := func(f func()) func() { return sync.OnceFunc(f) }
	tests := map[string]struct {
		between func(b *fakegateway.Builder) // two builds
		before  func(b *fakegateway.Builder) func()
		want    []string
	}{
		"take's result is gone, and the tree with it": {
			between: (*fakegateway.Builder).PruneContent,
			want:    []string{keep, lend, take},
		},
		"everything is gone": {
			between: (*fakegateway.Builder).Prune,
			want:    []string{keep, take},
		},
		"the mount is emptied": {
			between: (*fakegateway.Builder).Prune,
			before:  func(b *fakegateway.Builder) func() { return once(b.PruneCacheMounts) },
			want:    []string{keep, keep, lend, take},
		},
		"the tree is changed": {
			between: (*fakegateway.Builder).Prune,
			before:  func(b *fakegateway.Builder) func() { return once(func() { b.Tamper() }) },
			want:    []string{keep, keep, lend, take},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			s, f := start(t, b, one)
			healed := mustFreeze(t, f, s.contexts(t, "context"))
			s.end()
			containers(b)

			tt.between(b)
			s, f = start(t, b, one)
			if tt.before != nil {
				s.before = tt.before(b)
			}
			mustFreeze(t, f, s.contexts(t, "context"))
			wantContainers(t, b, tt.want...)

			// The next build has no more than to take what was left for it.
			s.end()
			for _, want := range [][]string{{take}, nil} {
				s, f = start(t, b, one)
				if got := mustFreeze(t, f, s.contexts(t, "context")); !proto.Equal(got, healed) {
					t.Error("it heals to another definition")
				}
				if !slices.Contains(tt.want, lend) {
					want = nil
				}
				wantContainers(t, b, want...)
				s.end()
			}
		})
	}
}

func TestFreezeGivesUp(t *testing.T) {
	t.Parallel()
	for want, before := range map[string]func(*fakegateway.Builder){
		`freeze context "context": its files are gone from the builder's cache again and again: see whether something prunes it: `: (*fakegateway.Builder).PruneCacheMounts,
		`freeze context "context": its files were changed in the builder's cache again and again: see what mounts localfront-contexts: `: func(b *fakegateway.Builder) {
			b.Tamper()
		},
	} {
		b := fakegateway.NewBuilder()
		s, f := start(t, b, one)
		s.before = func() { before(b) }
		_, err := f.Freeze(t.Context(), s.contexts(t, "context"))
		var failed *Error
		if !errors.As(err, &failed) || failed.Context != "context" || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
		if n := len(b.Calls(fakegateway.Container)); n != 2*attempts {
			t.Errorf("%d containers, want %d", n, 2*attempts)
		}
	}
}

func TestFreezeCancelled(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	s, f := start(t, b, one)
	ctx, cancel := context.WithCancel(t.Context())
	s.before = func() { b.PruneCacheMounts(); cancel() }
	if _, err := f.Freeze(ctx, s.contexts(t, "context")); err == nil {
		t.Error("no error")
	}
	if n := len(b.Calls(fakegateway.Container)); n > 2 {
		t.Errorf("%d containers after the end", n)
	}
}

func TestFreezeMissingContext(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	s, f := start(t, b, nil)
	_, err := f.Freeze(t.Context(), s.contexts(t, "other"))
	var failed *Error
	if !errors.As(err, &failed) || failed.Context != "other" || !strings.Contains(err.Error(), `no access allowed to dir "other"`) {
		t.Errorf("error %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Without = []apicaps.CapID{pb.CapExecMountCache}
	s := b.Session(fakegateway.Build{})
	t.Cleanup(s.Close)
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(c); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v, want ErrUnsupported", err)
	}
}

// Nothing that a Dockerfile says makes the id of its cache mount ours.
func TestNoDockerfileMountsTheCache(t *testing.T) {
	t.Parallel()
	for _, namespace := range []string{"", "/", ".", "..", cacheID, "x"} {
		for _, id := range []string{"id=" + cacheID + ",", "id=./" + cacheID + ",", "id=../" + cacheID + ",", "id=,", ""} {
			dockerfile := "FROM scratch\nRUN --mount=type=cache," + id + "target=" + cacheID + " [\"true\"]\n"
			res, err := dockerfile2llb.Dockerfile2LLB(t.Context(), []byte(dockerfile), dockerfile2llb.ConvertOpt{
				Config: dockerui.Config{CacheIDNamespace: namespace},
			})
			if err != nil {
				t.Fatal(err)
			}
			def, err := res.State.Marshal(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ids := cacheIDs(t, def.ToPB())
			if len(ids) != 1 || !strings.Contains(ids[0], "/") {
				t.Errorf("namespace %q, %s: cache mounts %q", namespace, dockerfile, ids)
			}
		}
	}
}

func cacheIDs(t *testing.T, def *pb.Definition) (ids []string) {
	t.Helper()
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		for _, m := range op.GetExec().GetMounts() {
			if m.MountType == pb.MountType_CACHE {
				ids = append(ids, m.CacheOpt.ID)
			}
		}
	}
	return ids
}
