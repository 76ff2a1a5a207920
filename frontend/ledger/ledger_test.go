package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/internal/fakegateway"
)

const (
	alpine   = "docker.io/library/alpine:3.20"
	alpineID = "docker-image://" + alpine
)

// open returns the ledger of b in a build of its own, which runs until the test
// ends.
func open(t *testing.T, b *fakegateway.Builder) *Ledger {
	t.Helper()
	l, end := start(t, b)
	t.Cleanup(end)
	return l
}

// start returns the ledger of b in a build of its own, and what ends that.
func start(t *testing.T, b *fakegateway.Builder) (*Ledger, func()) {
	t.Helper()
	s := b.Session(fakegateway.Build{})
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(c, graph.Guard)
	if err != nil {
		t.Fatal(err)
	}
	return l, s.Close
}

func entry(d string) Entry {
	return Entry{Version: entryVersion, Image: &Image{Digest: dgst, Resolved: noon, Platforms: map[string]Platform{d: {Layers: 1}}}}
}

func write(t *testing.T, l *Ledger, e Entry) {
	t.Helper()
	if err := l.Write(t.Context(), alpine, e); err != nil {
		t.Fatal(err)
	}
}

// wrote writes in a build that has ended.
func wrote(t *testing.T, b *fakegateway.Builder, e Entry) {
	t.Helper()
	l, end := start(t, b)
	defer end()
	write(t, l, e)
}

func read(t *testing.T, l *Ledger) (Entry, bool) {
	t.Helper()
	e, ok, err := l.Read(t.Context(), alpine, alpineID)
	if err != nil {
		t.Fatal(err)
	}
	return e, ok
}

func TestReadsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	if _, ok := read(t, open(t, b)); ok {
		t.Error("an empty ledger has an entry")
	}
	wrote(t, b, entry("one"))
	wrote(t, b, entry("two"))
	b.ClearLog()
	got, ok := read(t, open(t, b))
	if diff := cmp.Diff(entry("two"), got); !ok || diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	if c := b.Containers(); len(c) > 0 {
		t.Errorf("reading started %q", c)
	}
}

// A builder shares the vertex of a build that still runs: without the nonce it
// would answer with what that build read.
func TestReadsPastABuildThatRuns(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	slow := open(t, b)
	read(t, slow)
	wrote(t, b, entry("new"))
	for name, l := range map[string]*Ledger{"another build": open(t, b), "the same build": slow} {
		if got, _ := read(t, l); !cmp.Equal(got, entry("new")) {
			t.Errorf("%s reads %+v", name, got)
		}
	}
}

func TestLargeEntry(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	want := platformed(5000)
	wrote(t, b, want)
	if got, _ := read(t, open(t, b)); !cmp.Equal(got, want) {
		t.Error("another entry came back")
	}
	b.ClearLog()
	if err := open(t, b).Write(t.Context(), alpine, platformed(9000)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	if calls := b.Calls(fakegateway.Solve); len(calls) > 0 {
		t.Error("something was written")
	}
}

// agentOp returns the op that runs the agent in the definition of a request,
// and its metadata.
func agentOp(t *testing.T, def *pb.Definition) (*pb.Op, *pb.OpMetadata) {
	t.Helper()
	d, err := llb.NewDefinitionOp(def)
	if err != nil {
		t.Fatal(err)
	}
	v := d.Vertex(t.Context(), nil)
	dg, dt, md, _, err := v.Marshal(t.Context(), &llb.Constraints{})
	if err != nil {
		t.Fatal(err)
	}
	op := &pb.Op{}
	if err := op.UnmarshalVT(dt); err != nil {
		t.Fatal(err)
	}
	if def.Metadata[dg.String()] == nil {
		t.Fatal("the vertex has no metadata")
	}
	return op, md
}

func request(t *testing.T, l *Ledger, name, value string) *pb.Definition {
	t.Helper()
	req, err := l.request(t.Context(), name, value)
	if err != nil {
		t.Fatal(err)
	}
	return req.Definition
}

func TestScopesAreApart(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	scopes := []string{"", "a", "b", "A"}
	for _, scope := range scopes {
		write(t, open(t, b).In(scope), entry("of "+scope))
	}
	for _, scope := range scopes {
		if got, _ := read(t, open(t, b).In(scope)); !cmp.Equal(got, entry("of "+scope)) {
			t.Errorf("scope %q has %+v", scope, got)
		}
	}
	if e, ok := read(t, open(t, b).In("c")); ok {
		t.Errorf("a scope that nobody wrote to has %+v", e)
	}
	op, _ := agentOp(t, request(t, open(t, b).In("a"), alpine, ""))
	if diff := cmp.Diff([]string{"/agent", "localfront/v1 scope=a " + alpine}, op.GetExec().Meta.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

func TestLayoutOfAKey(t *testing.T) {
	t.Parallel()
	l := open(t, fakegateway.NewBuilder())
	op, md := agentOp(t, request(t, l, alpine, ""))
	exec := op.GetExec()
	if diff := cmp.Diff([]string{"/agent", "localfront/v1 " + alpine}, exec.Meta.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if exec.Network != pb.NetMode_NONE || exec.Meta.Cwd != "/" || len(exec.Meta.Env) > 1 {
		t.Errorf("network %v, folder %q, environment %q", exec.Network, exec.Meta.Cwd, exec.Meta.Env)
	}
	var mounts []string
	for _, m := range exec.Mounts {
		text := m.Dest
		if m.Readonly {
			text += " read-only"
		}
		if m.Input == int64(pb.Empty) {
			text += " scratch"
		}
		mounts = append(mounts, text)
	}
	if diff := cmp.Diff([]string{"/ read-only", "/out scratch"}, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if md.IgnoreCache || !md.ProgressGroup.Weak {
		t.Errorf("a read has metadata %v", md)
	}
}

func TestNonceAndValueAreNoPartOfTheKey(t *testing.T) {
	t.Parallel()
	l := open(t, fakegateway.NewBuilder())
	one, _ := agentOp(t, request(t, l, alpine, ""))
	two, _ := agentOp(t, request(t, l, alpine, ""))
	three, md := agentOp(t, request(t, l, alpine, "value"))
	if !md.IgnoreCache {
		t.Error("a write takes the cache")
	}
	other, _ := agentOp(t, request(t, l, alpine+"1", ""))
	if one.EqualVT(two) {
		t.Error("two reads are one vertex")
	}
	for _, op := range []*pb.Op{one, two, three, other} {
		op.GetExec().Meta.ProxyEnv = nil // ops.ExecOp.CacheMap does this
	}
	if !one.EqualVT(two) || !one.EqualVT(three) {
		t.Error("two requests for one name have different keys")
	}
	if one.EqualVT(other) {
		t.Error("two names have one key")
	}
}

func TestValueSpreadsOverTheProxyFields(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, fieldLimit, fieldLimit + 1, 2*fieldLimit + 7, valueLimit} {
		value := strings.Repeat("0123456789", n/10+1)[:n]
		p := proxyEnv(value)
		parts := []string{p.HTTPProxy, p.HTTPSProxy, p.FTPProxy, p.AllProxy}
		if strings.Join(parts, "") != value {
			t.Errorf("%d bytes do not come out as they went in", n)
		}
		for _, part := range parts {
			if len(part) > fieldLimit {
				t.Errorf("%d bytes: a field has %d", n, len(part))
			}
		}
		if p.NoProxy == "" || p.NoProxy == proxyEnv(value).NoProxy {
			t.Errorf("%d bytes: no nonce", n)
		}
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		wreck func(b *fakegateway.Builder)
		want  string
	}{
		{"no proxyenv", func(b *fakegateway.Builder) { b.Without = []apicaps.CapID{pb.CapExecMetaProxy} }, string(pb.CapExecMetaProxy)},
		{"no ignorecache", func(b *fakegateway.Builder) { b.Without = []apicaps.CapID{pb.CapMetaIgnoreCache} }, string(pb.CapMetaIgnoreCache)},
		{"no agent", func(b *fakegateway.Builder) { b.Platform = ocispecs.Platform{OS: "windows", Architecture: "amd64"} }, "no ledger agent for platform windows/amd64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			tt.wreck(b)
			s := b.Session(fakegateway.Build{})
			defer s.Close()
			c, err := s.Client(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err = New(c, graph.Guard); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ErrUnsupported about %q", err, tt.want)
			}
		})
	}
	if _, err := New(noWorker{}, graph.Guard); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without a worker: error %v, want ErrUnsupported", err)
	}
}

type noWorker struct{ Solver }

func (noWorker) BuildOpts() client.BuildOpts { return client.BuildOpts{} }

func TestGoverned(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		rule *spb.Rule
		want error
	}{
		{"denied", &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: alpineID}}, ErrGoverned},
		{"converted", &spb.Rule{
			Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: "docker-image://docker.io/library/*", MatchType: spb.MatchType_WILDCARD},
			Updates: &spb.Update{Identifier: "docker-image://mirror.test/${1}"},
		}, ErrGoverned},
		{"allowed", &spb.Rule{Action: spb.PolicyAction_ALLOW, Selector: &spb.Selector{Identifier: alpineID}}, nil},
		{"another image", &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: alpineID + ".1"}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			wrote(t, b, entry("one"))
			b.Policy = &spb.Policy{Version: 1, Rules: []*spb.Rule{tt.rule}}
			_, ok, err := open(t, b).Read(t.Context(), alpine, alpineID)
			if !errors.Is(err, tt.want) || ok != (tt.want == nil) {
				t.Errorf("read: %v, %v, want %v", ok, err, tt.want)
			}
		})
	}
}

// hung never answers, except to say that its caller has gone.
type hung struct{ Solver }

func (hung) Solve(ctx context.Context, _ client.SolveRequest) (*client.Result, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTimeout(t *testing.T) {
	l := open(t, fakegateway.NewBuilder())
	synctest.Test(t, func(t *testing.T) {
		l.solver = hung{}
		start := time.Now()
		err := l.Write(context.Background(), alpine, entry("one"))
		const want = "the builder took longer than 30s"
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if took := time.Since(start); took != timeout {
			t.Errorf("a write took %s, want %s", took, timeout)
		}
		start = time.Now()
		if _, _, err = l.Read(context.Background(), alpine, alpineID); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		// Once with the image beside it and once without.
		if took := time.Since(start); took > 2*timeout {
			t.Errorf("a read took %s, want at most %s", took, 2*timeout)
		}
	})
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	l := open(t, fakegateway.NewBuilder())
	l.solver = hung{}
	want := errors.New("the user has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(want)
	if err := l.Write(ctx, alpine, entry("one")); !errors.Is(err, want) {
		t.Errorf("write: %v, want %v", err, want)
	}
	if _, _, err := l.Read(ctx, alpine, alpineID); !errors.Is(err, want) {
		t.Errorf("read: %v, want %v", err, want)
	}
}

// superseding is a builder on which another build writes at the same moment.
type superseding struct {
	Solver
	other *Ledger
}

func (s superseding) Solve(ctx context.Context, _ client.SolveRequest) (*client.Result, error) {
	v, err := encode(entry("theirs"))
	if err != nil {
		return nil, err
	}
	theirs, err := s.other.request(ctx, alpine, v)
	if err != nil {
		return nil, err
	}
	return s.Solver.Solve(ctx, theirs)
}

func TestSuperseded(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	l := open(t, b)
	l.solver = superseding{l.solver, open(t, b)}
	if err := l.Write(t.Context(), alpine, entry("ours")); !errors.Is(err, ErrSuperseded) {
		t.Errorf("error %v, want ErrSuperseded", err)
	}
}

// crowd counts the solves under way.
type crowd struct {
	Solver
	now, most atomic.Int32
}

func (c *crowd) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	time.Sleep(timeout - time.Second)
	return c.Solver.Solve(ctx, req)
}

// Fifty reads that each take nearly as long as one may all succeed, since their
// time begins when it is their turn.
func TestManyNamesTakeTurns(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	synctest.Test(t, func(t *testing.T) {
		s := b.Session(fakegateway.Build{})
		defer s.Close()
		c, err := s.Client(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		busy := &crowd{Solver: c}
		l, err := New(busy, graph.Guard)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 5 * atOnce {
			wg.Go(func() {
				if _, _, err := l.Read(t.Context(), fmt.Sprintf("%s-%d", alpine, i), alpineID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most := busy.most.Load(); most != atOnce {
			t.Errorf("%d reads at once, want %d", most, atOnce)
		}
	})
}
