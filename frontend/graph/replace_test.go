package graph

import (
	"errors"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// local is a context with what a Dockerfile build says of it.
func local(name string) llb.State {
	return llb.Local(name, llb.SessionID("session"), llb.FollowPaths([]string{"f"}), named("load "+name))
}

// second is a state that is not the first output of its vertex.
func second(id string) llb.State {
	run := llb.Scratch().File(llb.Mkfile("/f", 0o644, []byte("f"))).Run(llb.Args([]string{id}), named("make "+id))
	run.AddMount("/first", llb.Scratch())
	return run.AddMount("/out", llb.Scratch())
}

func TestSources(t *testing.T) {
	t.Parallel()
	def := define(t, llb.Image(pinned("a")).File(llb.Copy(local("x"), "/", "/")).File(llb.Copy(local("y"), "/", "/")))
	parts, err := Sources(def, "local://")
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d sources, error %v", len(parts), err)
	}
	for _, part := range parts {
		_, ops := operations(t, part.Definition)
		op := ops[part.Digest]
		same(t, "vertex", op, part.Op)
		same(t, "follow paths", op.GetSource().Attrs[pb.AttrFollowPaths], `["f"]`)
		same(t, "metadata", part.Definition.Metadata[part.Digest], def.Metadata[part.Digest])
		same(t, "place", part.Definition.Source.Locations[part.Digest], def.Source.Locations[part.Digest])
		end := ops[""]
		for _, op := range ops {
			if op.Op == nil {
				end = op
			}
		}
		same(t, "end", end.Inputs, []*pb.Input{{Digest: part.Digest}})
	}
}

// replaceAll puts by in the place of each source of a scheme.
func replaceAll(t testing.TB, def *pb.Definition, scheme string, by *pb.Definition) *pb.Definition {
	t.Helper()
	parts, err := Sources(def, scheme)
	if err != nil {
		t.Fatal(err)
	}
	with := map[string]*pb.Definition{}
	for _, p := range parts {
		with[p.Digest] = by
	}
	out, err := Replace(def, with)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReplace(t *testing.T) {
	t.Parallel()
	by := define(t, second("it"))
	by.Source.Infos[0].Filename = "other"
	tests := map[string]llb.State{
		"a copy":        llb.Image(pinned("a")).File(llb.Copy(local("x"), "/", "/")),
		"twice":         llb.Image(pinned("a")).File(llb.Copy(local("x"), "/", "/")).File(llb.Copy(local("x"), "/f", "/g")),
		"two":           local("y").File(llb.Copy(local("x"), "/", "/")),
		"itself":        local("x"),
		"there already": second("it").File(llb.Copy(local("x"), "/", "/")),
	}
	for name, st := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			def := define(t, st)
			before := def.CloneVT()
			out := replaceAll(t, def, "local://", by)
			same(t, "the definition given", def, before)
			order, ops := operations(t, out) // none is twice, inputs come first
			for _, d := range order {
				if ops[d].GetSource() != nil && ops[d].GetSource().Identifier == "local://x" {
					t.Error("the local source is still there")
				}
				if out.Source.Locations[d] == nil {
					t.Errorf("%v has no place", ops[d])
				}
				if loc := out.Source.Locations[d]; int(loc.Locations[0].SourceIndex) >= len(out.Source.Infos) {
					t.Errorf("%v is in file %d of %d", ops[d], loc.Locations[0].SourceIndex, len(out.Source.Infos))
				}
			}
			if again := replaceAll(t, def, "local://", by); !proto.Equal(again, out) {
				t.Error("the same came out another")
			}
		})
	}
}

// What is replaced has to mean the same as if it had been there from the start.
func TestReplaceIsSubstitution(t *testing.T) {
	t.Parallel()
	build := func(ctx llb.State) llb.State {
		run := llb.Image(pinned("a")).Run(llb.Shlex("true"), named("RUN"))
		run.AddMount("/ctx", ctx, llb.Readonly)
		return run.Root().File(llb.Copy(ctx, "/", "/src"), named("COPY"))
	}
	got := replaceAll(t, define(t, build(local("x"))), "local://", define(t, second("it")))
	want := define(t, build(second("it")))
	_, gotOps := operations(t, got)
	_, wantOps := operations(t, want)
	same(t, "ops", gotOps, wantOps)
	same(t, "metadata", got.Metadata, want.Metadata)
}

func TestReplaceNothing(t *testing.T) {
	t.Parallel()
	def := define(t, graphs()["a step on it"])
	out, err := Replace(def, map[string]*pb.Definition{"sha256:other": define(t, second("it"))})
	if err != nil || out != def {
		t.Errorf("error %v, or another definition", err)
	}
}

func TestReplaceInvalid(t *testing.T) {
	t.Parallel()
	def := define(t, local("x").File(llb.Copy(llb.Image(pinned("a")), "/", "/")))
	good := define(t, second("it"))
	parts, err := Sources(def, "local://")
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string]*pb.Definition{
		"empty":    {},
		"no end":   {Def: good.Def[:len(good.Def)-1]},
		"only end": {Def: good.Def[len(good.Def)-1:]},
		"garbage":  {Def: [][]byte{[]byte("garbage")}},
	} {
		if _, err := Replace(def, map[string]*pb.Definition{parts[0].Digest: by}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
}
