package fakegateway

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/opencontainers/go-digest"
)

const alpine = "docker.io/library/alpine:3.20"

func connect(t *testing.T, b *Builder, what Build) (grpcclient.GrpcClient, string) {
	t.Helper()
	s := b.Session(what)
	t.Cleanup(s.Close)
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, s.id
}

// solve solves a state and evaluates it.
func solve(t *testing.T, c client.Client, st llb.State) error {
	t.Helper()
	def, err := st.Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Solve(t.Context(), client.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	return err
}

func wants(t *testing.T, err error, part string) {
	t.Helper()
	if part == "" && err != nil || part != "" && (err == nil || !strings.Contains(err.Error(), part)) {
		t.Errorf("error %v, want %q", err, part)
	}
}

func TestRefusesBadDefinitions(t *testing.T) {
	t.Parallel()
	def, err := llb.Image(alpine).Run(llb.Shlex("true")).Root().Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	good := def.ToPB()
	exec := digest.FromBytes(good.Def[1]).String()
	change := func(f func(def *pb.Definition)) *pb.Definition {
		d := good.CloneVT()
		f(d)
		return d
	}
	scheme, err := (&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "ftp://x"}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		def        *pb.Definition
	}{
		{"good", "", good},
		{"an unused source in front", "", change(func(d *pb.Definition) { d.Def = append([][]byte{scheme}, d.Def...) })},
		{"no result", "invalid LLB with no inputs on last vertex", change(func(d *pb.Definition) { d.Def = append(d.Def, scheme) })},
		{"one op", "invalid LLB with 1 vertexes", change(func(d *pb.Definition) { d.Def = d.Def[:1] })},
		{"an input missing", "invalid missing input digest", change(func(d *pb.Definition) { d.Def = d.Def[1:] })},
		{"garbage", "failed to parse llb proto op", change(func(d *pb.Definition) { d.Def[0] = []byte("x") })},
		{"an unknown capability", "unknown API capability made.up", change(func(d *pb.Definition) { d.Metadata[exec].Caps["made.up"] = true })},
		{"a location without a file", "invalid source index 1 for vertex", change(func(d *pb.Definition) {
			d.Source = &pb.Source{Locations: map[string]*pb.Locations{exec: {Locations: []*pb.Location{{SourceIndex: 1}}}}}
		})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := NewBuilder()
			b.Registry.Push(alpine, Image{})
			c, _ := connect(t, b, Build{})
			_, err := c.Solve(t.Context(), client.SolveRequest{Definition: tt.def, Evaluate: true})
			wants(t, err, tt.want)
		})
	}
}

// What design section 6 says was seen on real engines.
func TestLayoutOfAnEmptyStore(t *testing.T) {
	t.Parallel()
	b := NewBuilder()
	d := b.Registry.Push(alpine, Image{})
	ref := alpine + "@" + d.String()
	layout := func(ref, session string) llb.State { return llb.OCILayout(ref, llb.OCIStore(session, "nothing")) }
	c, id := connect(t, b, Build{})

	wants(t, solve(t, c, layout(ref, id)), "not found")
	if got := b.Requests(); got != nil {
		t.Errorf("requests %q", got)
	}
	if err := solve(t, c, llb.Image(ref)); err != nil {
		t.Fatal(err)
	}
	b.Restart()
	b.ClearLog()
	// The metadata is here now, the layers are not.
	wants(t, solve(t, c, layout(ref, id)), "")
	wants(t, solve(t, c, layout(ref, id).Run(llb.Shlex("true")).Root()), "not found")
	// Under another name it is not known, and in another session not at all.
	wants(t, solve(t, c, layout("docker.io/library/other:1@"+d.String(), id)), "not found")
	wants(t, solve(t, c, layout(ref, "another")), "no active session for another")
	wants(t, solve(t, c, layout(alpine, id)), "must have digest")
	if got := b.Requests(); got != nil {
		t.Errorf("requests %q", got)
	}
	// The registry is asked where the pool is cold, and need not answer.
	b.Registry.Down("docker.io", errors.New("down"))
	wants(t, solve(t, c, llb.Image(ref, llb.WithLayerLimit(1))), "")
	if diff := cmp.Diff([]string{"HEAD " + ref}, b.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestPolicySeesUnusedSources(t *testing.T) {
	t.Parallel()
	b := NewBuilder()
	b.Registry.Push("busybox", Image{})
	b.Policy = &spb.Policy{Rules: []*spb.Rule{{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: "docker-image://" + alpine}}}}
	c, _ := connect(t, b, Build{})
	def, err := llb.Image("docker.io/library/busybox:latest").Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	apart, err := (&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://" + alpine}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p := def.ToPB()
	p.Def = append([][]byte{apart}, p.Def...)
	_, err = c.Solve(t.Context(), client.SolveRequest{Definition: p, Evaluate: true})
	wants(t, err, "denied by policy")
	_, _, _, err = c.ResolveImageConfig(t.Context(), alpine, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{}})
	wants(t, err, "denied by policy")
	if got := b.Requests(); got != nil {
		t.Errorf("requests %q", got)
	}
}

func TestLocalsAreFiltered(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, NewBuilder(), Build{Locals: map[string]map[string]string{"context": {"a": "1", "b": "2", "d/c": "3"}}})
	tests := []struct {
		name string
		opt  []llb.LocalOption
		want string
	}{
		{"all", nil, "a b d/c"},
		{"followed", []llb.LocalOption{llb.FollowPaths([]string{"a", "d", "none"})}, "a d/c"},
		{"included", []llb.LocalOption{llb.IncludePatterns([]string{"d"})}, "d/c"},
		{"excluded", []llb.LocalOption{llb.ExcludePatterns([]string{"*", "!b"})}, "b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			def, err := llb.Local("context", tt.opt...).Marshal(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			res, err := c.Solve(t.Context(), client.SolveRequest{Definition: def.ToPB()})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range []string{"a", "b", "d/c"} {
				if _, err := res.Ref.ReadFile(t.Context(), client.ReadRequest{Filename: name}); err == nil {
					got = append(got, name)
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("files %q, want %q", s, tt.want)
			}
		})
	}
}

func TestStepsAreCached(t *testing.T) {
	t.Parallel()
	b := NewBuilder()
	b.Registry.Push(alpine, Image{})
	step := llb.Image(alpine).Run(llb.Shlex("true"))
	for _, want := range []int{1, 1} {
		c, _ := connect(t, b, Build{})
		wants(t, solve(t, c, step.Root()), "")
		if n := len(b.Containers()); n != want {
			t.Errorf("%d containers, want %d", n, want)
		}
	}
	c, _ := connect(t, b, Build{})
	wants(t, solve(t, c, llb.Image(alpine).Run(llb.Shlex("true"), llb.IgnoreCache).Root()), "")
	if n := len(b.Containers()); n != 2 {
		t.Errorf("%d containers without the cache, want 2", n)
	}
}

func TestMissingCapabilityIsMissed(t *testing.T) {
	t.Parallel()
	b := NewBuilder()
	b.Without = []apicaps.CapID{pb.CapSourceOCILayout, gwpb.CapGatewayEvaluate}
	c, id := connect(t, b, Build{})
	opts := c.BuildOpts()
	if opts.LLBCaps.Supports(pb.CapSourceOCILayout) == nil || opts.Caps.Supports(gwpb.CapGatewayEvaluate) == nil {
		t.Error("a missing capability is announced")
	}
	if opts.LLBCaps.Supports(pb.CapSourceImage) != nil {
		t.Error("another capability is missing too")
	}
	wants(t, solve(t, c, llb.OCILayout(alpine+"@"+digest.FromString("x").String(), llb.OCIStore(id, "x"))), "source.ocilayout")
	_, _, _, err := c.ResolveImageConfig(t.Context(), alpine+"@"+digest.FromString("x").String(), sourceresolver.Opt{OCILayoutOpt: &sourceresolver.ResolveOCILayoutOpt{}})
	wants(t, err, "no handler for oci-layout")
}
