package graph

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/testing/protocmp"
)

// random returns a state of random shape on images drawn from names, which may
// come up many times, as may steps.
func random(r *rand.Rand, names ...string) llb.State {
	var states []llb.State
	for _, n := range names {
		states = append(states, llb.Image(pinned(n), named("FROM "+n)))
	}
	pick := func() llb.State { return states[r.IntN(len(states))] }
	for range 2 + r.IntN(6) {
		step := fmt.Sprint("step ", r.IntN(3))
		switch r.IntN(4) {
		case 0:
			states = append(states, pick().Run(llb.Shlex(step), named("[1/2] RUN "+step)).Root())
		case 1:
			run := pick().Run(llb.Shlex(step), named("RUN mount"))
			run.AddMount("/ro", pick(), llb.Readonly)
			states = append(states, run.AddMount("/out", pick()), run.Root())
		case 2:
			states = append(states, pick().File(llb.Copy(pick(), "/x", "/y"), named("COPY")))
		case 3:
			states = append(states, llb.Merge([]llb.State{pick(), pick()}))
		}
	}
	return states[len(states)-1].File(llb.Mkdir("/end", 0o755)) // never scratch
}

// meaning says what a definition results in, whatever the digests of its
// vertices are. images says what stands for an image, if anything.
func meaning(t testing.TB, def *pb.Definition, images map[string]string) string {
	t.Helper()
	var at string // the meaning of the terminal's input
	of := map[string]string{}
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(dt).String()
		var text strings.Builder
		for _, in := range op.Inputs {
			m, ok := of[in.Digest]
			if !ok {
				t.Fatalf("input %s is not before its user", in.Digest)
			}
			if strings.HasPrefix(m, "result:") {
				text.WriteString(strings.TrimPrefix(m, "result:"))
			} else {
				fmt.Fprintf(&text, "(%s %d)", m, in.Index)
			}
		}
		if op.Op == nil {
			at = text.String()
			continue
		}
		if m, ok := images[op.GetSource().GetIdentifier()]; ok {
			of[d] = "result:" + m
			continue
		}
		op.Inputs = nil
		own, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		of[d] = digest.FromString(digest.FromBytes(own).String() + text.String()).Encoded()
	}
	return at
}

// replace answers for images by name, as Splice asks.
func replace(results map[string]*Result) func(Image) (*Result, error) {
	return func(img Image) (*Result, error) { return results[imageScheme+img.Ref.String()], nil }
}

func TestSpliceKeepsTheMeaning(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		foo, bar := define(t, random(r, "alpine", "busybox")), define(t, random(r, "alpine", "foo", "baz"))
		baz := define(t, random(r, "busybox"))
		marker := imageScheme + pinned("foo")
		results := map[string]*Result{marker: {Name: "foo", Definition: foo}, imageScheme + pinned("baz"): {Name: "baz", Definition: baz}}
		out, err := Splice(bar, replace(results))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		want := meaning(t, bar, map[string]string{
			marker: meaning(t, foo, nil), imageScheme + pinned("baz"): meaning(t, baz, nil),
		})
		if got := meaning(t, out, nil); got != want {
			t.Fatalf("seed %d: another result", seed)
		}
		checkWhole(t, out)
		again, err := Splice(bar, replace(results))
		if err != nil || !out.EqualVT(again) {
			t.Fatalf("seed %d: the second time another definition, %v", seed, err)
		}
	}
}

// checkWhole fails if a vertex is there twice, or metadata or locations are of
// none.
func checkWhole(t *testing.T, def *pb.Definition) {
	t.Helper()
	_, ops := operations(t, def)
	for _, d := range slices.Collect(maps.Keys(def.Metadata)) {
		if ops[d] == nil {
			t.Errorf("metadata of no vertex: %v", def.Metadata[d])
		}
	}
	for d, locs := range def.GetSource().GetLocations() {
		if ops[d] == nil {
			t.Errorf("location of no vertex")
		}
		for _, l := range locs.Locations {
			if int(l.SourceIndex) >= len(def.Source.Infos) {
				t.Errorf("location in file %d of %d", l.SourceIndex, len(def.Source.Infos))
			}
		}
	}
}

func TestSpliceNothing(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		out, err := Splice(def, replace(nil))
		if err != nil || out != def {
			t.Errorf("another definition, %v", err)
		}
	})
}

// names lists what steps are called, in order.
func names(t *testing.T, def *pb.Definition) []string {
	var all []string
	order, _ := operations(t, def)
	for _, d := range order {
		if n, ok := def.Metadata[d].GetDescription()[keyName]; ok {
			all = append(all, n)
		}
	}
	return all
}

func TestSpliceNamesItsSteps(t *testing.T) {
	t.Parallel()
	splice := func(def *pb.Definition, name string, with *pb.Definition) *pb.Definition {
		out, err := Splice(def, replace(map[string]*Result{imageScheme + pinned(name): {Name: name, Definition: with}}))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a := define(t, llb.Image(pinned("alpine"), named("[1/2] FROM alpine")).Run(llb.Shlex("a"), named("[2/2] RUN a")).Root())
	b := define(t, llb.Image(pinned("a"), named("[1/2] FROM a")).Run(llb.Shlex("b"), named("[stage 2/2] RUN b")).Root())
	c := define(t, llb.Image(pinned("b")).Run(llb.Shlex("c"), named("RUN c")).Root())
	out := splice(c, "b", splice(b, "a", a))
	want := []string{"[a 1/2] FROM alpine", "[a 2/2] RUN a", "[b stage 2/2] RUN b", "RUN c"}
	if diff := cmp.Diff(want, names(t, out)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	// A file that all come from is there once, and each step has its line.
	if n := len(out.Source.Infos); n != 1 {
		t.Errorf("%d files, want 1", n)
	}
	order, _ := operations(t, out)
	for i, d := range order[:len(order)-1] {
		want := []int32{1, 2, 2, 2}[i]
		if got := out.Source.Locations[d].Locations[0].Ranges[0].Start.Line; got != want {
			t.Errorf("step %d is at line %d, want %d", i, got, want)
		}
	}
}

// A step that both builds have is the result's: its cache is not ignored.
func TestSpliceSharesSteps(t *testing.T) {
	t.Parallel()
	step := func(opts ...llb.RunOption) llb.State {
		return llb.Image(pinned("alpine")).Run(append(opts, llb.Shlex("uuid"))...).Root()
	}
	for name, st := range map[string]llb.State{
		"own first":    llb.Merge([]llb.State{step(llb.IgnoreCache), llb.Image(pinned("foo"))}),
		"result first": llb.Merge([]llb.State{llb.Image(pinned("foo")), step(llb.IgnoreCache)}),
	} {
		foo := &Result{Name: "foo", Definition: define(t, step())}
		out, err := Splice(define(t, st), replace(map[string]*Result{imageScheme + pinned("foo"): foo}))
		if err != nil {
			t.Fatal(err)
		}
		if order, _ := operations(t, out); len(order) != 4 {
			t.Errorf("%s: %d vertices, want alpine, uuid, merge and the result", name, len(order))
		}
		for _, m := range out.Metadata {
			if m.IgnoreCache {
				t.Errorf("%s: the result would be made anew", name)
			}
		}
	}
}

func TestSpliceSaysWhere(t *testing.T) {
	t.Parallel()
	def := define(t, llb.Image(pinned("foo")).Run(llb.Shlex("true")).Root())
	cause := errors.New("no such platform")
	_, err := Splice(def, func(Image) (*Result, error) { return nil, cause })
	if !errors.Is(err, cause) || len(errdefs.Sources(err)) != 1 {
		t.Errorf("%v with places %v", err, errdefs.Sources(err))
	}
	for name, broken := range map[string]*pb.Definition{
		"nothing":    {},
		"no op":      {Def: [][]byte{{0xff}, {0xff}}},
		"no result":  {Def: def.Def[:2]},
		"no inputs":  {Def: def.Def[1:]},
		"all at end": {Def: [][]byte{def.Def[1], def.Def[0], def.Def[2]}},
	} {
		_, err := Splice(def, func(Image) (*Result, error) { return &Result{Name: "foo", Definition: broken}, nil })
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		def.Source.Infos[0].Definition = define(t, llb.Local("dockerfile", llb.SessionID("secret")))
		def.Source.Infos[0].Data = []byte("FROM a\nRUN b\n\nRUN c\nRUN d\nARG password\n")
		rec, err := Record(def)
		if err != nil {
			t.Fatal(err)
		}
		if meaning(t, rec, nil) != meaning(t, def, nil) {
			t.Error("another result")
		}
		dt, err := Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(def.Def); strings.Contains(string(dt), "password") && n < 6 {
			t.Errorf("a line that no step comes from is in the record of %d steps", n)
		}
		back, err := Unmarshal(dt)
		if diff := cmp.Diff(rec, back, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		for range 20 {
			again, err := Record(def)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := Marshal(again); err != nil || string(other) != string(dt) {
				t.Fatalf("other bytes, %v", err)
			}
		}
		for _, m := range rec.Metadata {
			if m.IgnoreCache {
				t.Error("the cache is ignored")
			}
		}
	})
}

// What belongs to one build only is not recorded: with and without it the
// record is the same.
func TestRecordStrips(t *testing.T) {
	t.Parallel()
	state := func(group, proxy string, opts ...llb.RunOption) llb.State {
		opts = append(opts, llb.Shlex("true"), llb.ProgressGroup(group, "LINK", true), llb.WithProxy(llb.ProxyEnv{HTTPProxy: proxy}))
		return llb.Image(pinned("a")).Run(opts...).Root()
	}
	record := func(st llb.State) string {
		rec, err := Record(define(t, st))
		if err != nil {
			t.Fatal(err)
		}
		if err := Fit(rec); err != nil {
			t.Fatal(err)
		}
		dt, err := Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		return string(dt)
	}
	if record(state("one", "http://user:password@proxy")) != record(state("two", "", llb.IgnoreCache)) {
		t.Error("records differ")
	}
}

func TestFit(t *testing.T) {
	t.Parallel()
	sum := digest.FromString("x")
	hex := strings.Repeat("0123456789", 4)
	base := llb.Image(pinned("a"))
	for name, tt := range map[string]struct {
		st   llb.State
		want string
	}{
		"an image":           {base.Run(llb.Shlex("true")).Root(), ""},
		"merge and diff":     {llb.Diff(base, llb.Merge([]llb.State{base, llb.Image(pinned("b"))})), ""},
		"git by commit":      {base.File(llb.Copy(llb.Git("https://example.com/r.git", hex), "/", "/")), ""},
		"git with checksum":  {base.File(llb.Copy(llb.Git("https://example.com/r.git", "main", llb.GitChecksum(hex)), "/", "/")), ""},
		"http with checksum": {base.File(llb.Copy(llb.HTTP("https://example.com/f", llb.Checksum(sum)), "/", "/")), ""},
		"a tag":              {llb.Image("docker.io/library/a:1"), "an image without a digest, docker.io/library/a:1"},
		"git by branch":      {llb.Git("https://example.com/r.git", "main"), "a git repository without a commit"},
		"http":               {llb.HTTP("https://example.com/f"), "a file from the network without a checksum"},
		"local":              {llb.Local("context", named("[internal] load build context")), "[internal] load build context: files of the user's session"},
		"oci-layout":         {llb.OCILayout(pinned("a"), llb.OCIStore("s", "x"), named("[context x] OCI load from client")), "[context x] OCI load from client: an image of the user's session"},
		"ignored cache":      {base.Run(llb.Shlex("true"), llb.IgnoreCache).Root(), "its cache is ignored"},
		"git with a token":   {llb.Git("https://x:s3cret@example.com/r.git", hex), "an address with credentials in it"},
		"git over ssh":       {base.File(llb.Copy(llb.Git("git@example.com:r.git", hex, llb.KnownSSHHosts("k")), "/", "/")), ""},
		"http with a user":   {llb.HTTP("https://token@example.com/f", llb.Checksum(sum)), "an address with credentials in it"},
		"a secret":           {base.Run(llb.Shlex("true"), llb.AddSecret("/s", llb.SecretID("id"))).Root(), ""},
		"a token":            {base.Run(llb.Shlex("true"), llb.AddEnv("T", "ghp_"+hex)).Root(), "the value of T looks like a token, which a secret mount would keep out of the record"},
		"a token as such":    {base.Run(llb.Args([]string{"sh", "-c", "login -p glpat-" + hex})).Root(), "its command has what looks like a token, which a secret mount would keep out of the record"},
		"a key for packages": {base.Run(llb.Shlex("true"), llb.AddEnv("GPG_KEY", strings.ToUpper(hex))).Root(), ""},
		"proxy":              {base.Run(llb.Shlex("true"), llb.WithProxy(llb.ProxyEnv{NoProxy: "x"})).Root(), "it has proxy settings"},
	} {
		err := Fit(define(t, tt.st))
		if tt.want == "" && err == nil {
			continue
		}
		var unfit *UnfitError
		if !errors.As(err, &unfit) || unfit.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestFitRefusesWhatIsNoDefinition(t *testing.T) {
	t.Parallel()
	whole := define(t, llb.Image(pinned("a")).Run(llb.Shlex("true")).Root())
	for name, change := range map[string]func(*pb.Definition){
		"nothing":         func(d *pb.Definition) { d.Def = nil },
		"cut off":         func(d *pb.Definition) { d.Def = d.Def[:len(d.Def)-1] },
		"a missing input": func(d *pb.Definition) { d.Def = d.Def[1:] },
		"another order":   func(d *pb.Definition) { slices.Reverse(d.Def) },
		"another result": func(d *pb.Definition) {
			d.Def[len(d.Def)-1], _ = (&pb.Op{Inputs: []*pb.Input{{Digest: "x"}}}).Marshal()
		},
		"no op":             func(d *pb.Definition) { d.Def[0] = []byte("x") },
		"a wrong place":     func(d *pb.Definition) { d.Source.Infos = nil },
		"a step at the end": func(d *pb.Definition) { d.Def = append(d.Def, d.Def[0]) },
	} {
		def := whole.CloneVT()
		change(def)
		if err := Fit(def); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	op := &pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}}
	dt, err := op.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	end, err := (&pb.Op{Inputs: []*pb.Input{{Digest: digest.FromBytes(dt).String()}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var unfit *UnfitError
	if err := Fit(&pb.Definition{Def: [][]byte{dt, end}}); !errors.As(err, &unfit) {
		t.Errorf("an unknown op: %v", err)
	}
}
