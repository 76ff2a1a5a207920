package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

const storeID = "empty"

var (
	amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	store = Store{SessionID: "session", ID: storeID}
)

// pinned returns a reference by digest to an image of some name.
func pinned(name string) string {
	return "docker.io/library/" + name + ":1@" + digest.FromString(name).String()
}

// everything says yes to each image by digest.
func everything(img Image) (reference.Canonical, error) {
	c, _ := img.Ref.(reference.Canonical)
	return c, nil
}

// define marshals a state, with a source location for each vertex.
func define(t testing.TB, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(context.Background(), llb.Platform(amd64))
	if err != nil {
		t.Fatal(err)
	}
	p := def.ToPB()
	p.Source = &pb.Source{
		Infos:     []*pb.SourceInfo{{Filename: "Dockerfile", Data: []byte("FROM a\n")}},
		Locations: map[string]*pb.Locations{},
	}
	for i, dt := range p.Def {
		p.Source.Locations[digest.FromBytes(dt).String()] = &pb.Locations{Locations: []*pb.Location{{
			Ranges: []*pb.Range{{Start: &pb.Position{Line: int32(i + 1)}, End: &pb.Position{Line: int32(i + 1)}}},
		}}}
	}
	return p
}

// named names the vertex that a state ends with.
func named(name string) llb.ConstraintsOpt { return llb.WithCustomName(name) }

// graphs are definitions of some shapes.
func graphs() map[string]llb.State {
	a := llb.Image(pinned("a"), named("FROM a"), llb.ResolveModePreferLocal)
	b := llb.Image(pinned("b"), named("FROM b"))
	run := a.Run(llb.Shlex("true"), llb.IgnoreCache, named("RUN true"))
	run.AddMount("/b", b, llb.Readonly)
	step := run.AddMount("/out", llb.Scratch())
	return map[string]llb.State{
		"one image":           a,
		"a step on it":        a.Run(llb.Shlex("true"), named("RUN true")).Root(),
		"a mount and outputs": step.File(llb.Copy(run.Root(), "/x", "/y"), named("COPY")),
		"the same image twice": llb.Merge([]llb.State{
			a.Run(llb.Shlex("one")).Root(), a.Run(llb.Shlex("two")).Root(),
		}),
		"two platforms of one image": llb.Scratch().
			File(llb.Copy(llb.Image(pinned("a"), llb.Platform(amd64)), "/x", "/amd64")).
			File(llb.Copy(llb.Image(pinned("a"), llb.Platform(arm64)), "/x", "/arm64")),
		"only some layers":   llb.Image(pinned("a"), llb.WithLayerLimit(2)).Run(llb.Shlex("true")).Root(),
		"no image":           llb.Scratch().File(llb.Mkfile("/f", 0o644, nil)),
		"a tag":              llb.Image("docker.io/library/a:1").Run(llb.Shlex("true")).Root(),
		"other sources":      llb.Git("https://example.com/r.git", "main").Run(llb.Shlex("true")).Root().File(llb.Copy(llb.Local("context"), "/", "/")),
		"the user's layout":  llb.OCILayout(pinned("a"), llb.OCIStore("session", "theirs")).Run(llb.Shlex("true")).Root(),
		"image and layout":   llb.OCILayout(pinned("a"), llb.OCIStore("session", "theirs")).File(llb.Copy(a, "/", "/")),
		"an image by itself": b.File(llb.Copy(a, "/", "/")),
	}
}

func eachGraph(t *testing.T, f func(t *testing.T, def *pb.Definition)) {
	for name, st := range graphs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, define(t, st))
		})
	}
}

// localize turns all that can be, and fails the test if that fails.
func localize(t testing.TB, def *pb.Definition) *pb.Definition {
	t.Helper()
	out, err := Localize(def, store, everything)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// operations returns the ops of a definition by digest, in order. It fails the
// test if an input is not before the op that needs it.
func operations(t testing.TB, def *pb.Definition) (order []string, ops map[string]*pb.Op) {
	t.Helper()
	ops = map[string]*pb.Op{}
	for i, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		for _, in := range op.Inputs {
			if ops[in.Digest] == nil {
				t.Fatalf("op %d needs %s, which is not before it", i, in.Digest)
			}
		}
		d := digest.FromBytes(dt).String()
		if ops[d] != nil {
			t.Errorf("op %d is there twice", i)
		}
		ops[d] = op
		order = append(order, d)
	}
	return order, ops
}

// identifiers lists the sources of a definition, those that are used apart
// from those that are not.
func identifiers(t testing.TB, def *pb.Definition) (used, apart []string) {
	order, ops := operations(t, def)
	inputs := map[string]bool{}
	for _, op := range ops {
		for _, in := range op.Inputs {
			inputs[in.Digest] = true
		}
	}
	for _, d := range order {
		if src := ops[d].GetSource(); src != nil && inputs[d] {
			used = append(used, src.Identifier)
		} else if src != nil {
			apart = append(apart, src.Identifier)
		}
	}
	return used, apart
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	a := func(p ocispecs.Platform, mounted bool) Image {
		ref, err := reference.ParseNormalizedNamed(pinned("a"))
		if err != nil {
			t.Fatal(err)
		}
		return Image{Ref: ref, Platform: p, Mounted: mounted}
	}
	b := a(amd64, true)
	b.Ref, _ = reference.ParseNormalizedNamed(pinned("b"))
	tag := a(amd64, true)
	tag.Ref, _ = reference.ParseNormalizedNamed("a:1")
	tests := map[string][]Image{
		"one image":                  {a(amd64, false)},
		"a step on it":               {a(amd64, true)},
		"a mount and outputs":        {a(amd64, true), b},
		"the same image twice":       {a(amd64, true)},
		"two platforms of one image": {a(amd64, true), a(arm64, true)},
		"no image":                   nil,
		"a tag":                      {tag},
		"other sources":              nil,
		"the user's layout":          nil,
		"image and layout":           {a(amd64, true)},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Images(define(t, graphs()[name]))
			if err != nil {
				t.Fatal(err)
			}
			line := func(imgs []Image) (out []string) {
				for _, i := range imgs {
					out = append(out, fmt.Sprintf("%s %s %v", i.Ref, i.Platform.Architecture, i.Mounted))
				}
				slices.Sort(out) // the order of a definition follows its digests
				return out
			}
			same(t, "images", line(got), line(want))
		})
	}
}

func TestLocalizeLeavesNoImageInUse(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		var want []string
		was, _ := identifiers(t, def)
		for _, id := range was {
			if strings.HasPrefix(id, imageScheme) && strings.Contains(id, "@") {
				want = append(want, id)
			}
		}
		used, apart := identifiers(t, localize(t, def))
		for _, id := range used {
			if strings.HasPrefix(id, imageScheme) && strings.Contains(id, "@") {
				t.Errorf("%s is still in use", id)
			}
		}
		// A source policy has to see every image that was replaced.
		slices.Sort(want)
		slices.Sort(apart)
		same(t, "kept apart", apart, want)
	})
}

func TestLocalizeKeepsTheGraph(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		before := def.CloneVT()
		out := localize(t, def)
		same(t, "the definition given", def, before)
		operations(t, out)
		if apart := len(out.Def) - len(def.Def); apart == 0 && out != def {
			t.Error("nothing was replaced, but the definition is another")
		} else {
			checkFollow(t, def, out, apart)
		}
	})
}

// checkFollow checks that out, which has some more ops in front, has the
// metadata and locations of def at the same vertices.
func checkFollow(t *testing.T, def, out *pb.Definition, more int) {
	t.Helper()
	for i, dt := range def.Def {
		was, now := digest.FromBytes(dt).String(), digest.FromBytes(out.Def[i+more]).String()
		same(t, "location", out.Source.Locations[now], def.Source.Locations[was])
		before, after := def.Metadata[was].CloneVT(), out.Metadata[now].CloneVT()
		if before != nil { // capabilities follow the source
			before.Caps, after.Caps = nil, nil
		}
		same(t, "metadata", after, before)
	}
	same(t, "files", out.Source.Infos, def.Source.Infos)
}

func TestLocalizeAsksForTheCapability(t *testing.T) {
	t.Parallel()
	out := localize(t, define(t, graphs()["only some layers"]))
	_, ops := operations(t, out)
	for d, op := range ops {
		src := op.GetSource()
		if src == nil || !strings.HasPrefix(src.Identifier, layoutScheme) {
			continue
		}
		same(t, "capabilities", out.Metadata[d].Caps, map[string]bool{string(pb.CapSourceOCILayout): true})
		same(t, "attributes", src.Attrs, map[string]string{
			pb.AttrOCILayoutSessionID: "session", pb.AttrOCILayoutStoreID: storeID, pb.AttrOCILayoutLayerLimit: "2",
		})
	}
}

func TestLocalizeLeavesWhatItCannotSay(t *testing.T) {
	t.Parallel()
	d := digest.FromString("a")
	tests := []struct {
		name  string
		attrs map[string]string
		want  bool
	}{
		{"no attributes", nil, true},
		{"the mode of resolving", map[string]string{pb.AttrImageResolveMode: "pull"}, true},
		{"the record type", map[string]string{pb.AttrImageRecordType: "internal"}, true},
		{"its own checksum", map[string]string{pb.AttrImageChecksum: d.String()}, true},
		{"another checksum", map[string]string{pb.AttrImageChecksum: digest.FromString("b").String()}, false},
		{"something new", map[string]string{"image.new": "x"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			def := define(t, llb.Image(pinned("a")))
			vs, err := parse(def)
			if err != nil {
				t.Fatal(err)
			}
			vs[0].op.GetSource().Attrs = tt.attrs
			if def, err = assemble(def, vs, nil); err != nil {
				t.Fatal(err)
			}
			if got := localize(t, def) != def; got != tt.want {
				t.Errorf("localized: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLocalizeTakesTheReferenceGiven(t *testing.T) {
	t.Parallel()
	ref, err := reference.ParseNormalizedNamed(pinned("a"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := Localize(define(t, graphs()["a tag"]), store, func(Image) (reference.Canonical, error) {
		return ref.(reference.Canonical), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	used, apart := identifiers(t, out)
	same(t, "used", used, []string{layoutScheme + pinned("a")})
	same(t, "apart", apart, []string{"docker-image://docker.io/library/a:1"})
}

func TestLocalizeReturnsTheErrorAsItIs(t *testing.T) {
	t.Parallel()
	want := errors.New("no")
	_, err := Localize(define(t, graphs()["one image"]), store, func(Image) (reference.Canonical, error) { return nil, want })
	if !errors.Is(err, want) || err.Error() != want.Error() {
		t.Errorf("error %v, want %v", err, want)
	}
	if len(errdefs.Sources(err)) == 0 {
		t.Error("the error has no place in the Dockerfile")
	}
}

func TestGlobalizeUndoesLocalize(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		out, err := Globalize(localize(t, def), storeID)
		if err != nil {
			t.Fatal(err)
		}
		operations(t, out)
		wasUsed, _ := identifiers(t, def)
		used, apart := identifiers(t, out)
		same(t, "sources", used, wasUsed)
		same(t, "apart", len(apart), 0)
		same(t, "number of ops", len(out.Def), len(def.Def))
		checkFollow(t, def, out, 0)
		again, err := Globalize(out, storeID)
		if err != nil {
			t.Fatal(err)
		}
		if again != out {
			t.Error("a definition with nothing to undo is another afterwards")
		}
	})
}

// The cache key of an image does not depend on its attributes, but that of a
// step does on all that is in front of it: a round trip must not change it.
func TestGlobalizeRestoresDigestsOfPlainImages(t *testing.T) {
	t.Parallel()
	def := define(t, llb.Image(pinned("a")).Run(llb.Shlex("true")).Root())
	out, err := Globalize(localize(t, def), storeID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "ops", out.Def, def.Def)
}

func TestDeterministic(t *testing.T) {
	t.Parallel()
	eachGraph(t, func(t *testing.T, def *pb.Definition) {
		first := localize(t, def)
		for range 100 {
			if out := localize(t, def.CloneVT()); !proto.Equal(out, first) {
				t.Fatal("the same definition came out another")
			}
		}
	})
}

func TestInvalidDefinitions(t *testing.T) {
	t.Parallel()
	good := define(t, graphs()["a step on it"])
	noInput := &pb.Definition{Def: good.Def[1:], Metadata: good.Metadata}
	backwards := &pb.Definition{Def: slices.Clone(good.Def), Metadata: good.Metadata}
	slices.Reverse(backwards.Def)
	image := define(t, graphs()["an image by itself"])
	missing := &pb.Definition{Def: append(slices.Clone(image.Def[:1]), image.Def[2:]...), Metadata: image.Metadata}
	for name, def := range map[string]*pb.Definition{
		"not an op":        {Def: [][]byte{[]byte("garbage")}},
		"cut off":          {Def: [][]byte{good.Def[0][:len(good.Def[0])-1]}},
		"backwards":        backwards,
		"an input missing": missing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Localize(def, store, everything); !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v, want ErrInvalid", err)
			}
		})
	}
	// Nothing in it is an image, so nobody has to look further.
	if out, err := Localize(noInput, store, everything); err != nil || out != noInput {
		t.Errorf("a definition without images: %v", err)
	}
	for _, def := range []*pb.Definition{nil, {}} {
		if images, err := Images(def); err != nil || images != nil {
			t.Errorf("an empty definition has images %v, error %v", images, err)
		}
	}
}

// FuzzRewrite checks that no definition makes a rewrite panic, and that what
// comes out of one is a graph again.
func FuzzRewrite(f *testing.F) {
	for _, st := range graphs() {
		def := define(f, st)
		dt, err := def.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(dt)
	}
	f.Fuzz(func(t *testing.T, dt []byte) {
		def := &pb.Definition{}
		if def.UnmarshalVT(dt) != nil {
			return
		}
		if _, err := Images(def); err != nil {
			return
		}
		out, err := Localize(def, store, everything)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v, want ErrInvalid", err)
			}
			return
		}
		if out == def {
			return
		}
		back, err := Globalize(out, storeID)
		if err != nil {
			t.Fatalf("back: %v", err)
		}
		if _, err := parse(back); err != nil {
			t.Fatalf("what came out: %v", err)
		}
	})
}
