package fakegateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	cref "github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/sourcepolicy"
	"github.com/opencontainers/go-digest"
)

// vertex is a loaded op with its inputs.
type vertex struct {
	op     *pb.Op
	meta   *pb.OpMetadata
	digest digest.Digest
	inputs []edge
}

type edge struct {
	vertex *vertex
	index  int64
}

// load checks a definition and returns its result, as loadLLB in
// solver/llbsolver/vertex.go does. That package would do, but for what it links.
func (b *Builder) load(ctx context.Context, def *pb.Definition, policy *sourcepolicy.Engine) (edge, error) {
	if len(def.GetDef()) == 0 {
		return edge{}, errors.New("invalid empty definition")
	}
	if err := checkLocations(def.Source); err != nil {
		return edge{}, err
	}
	all := map[digest.Digest]*vertex{}
	var last *vertex
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return edge{}, fmt.Errorf("failed to parse llb proto op: %w", err)
		}
		for i, in := range op.Inputs {
			if in.Index < 0 {
				return edge{}, fmt.Errorf("invalid input %d output index %d", i, in.Index)
			}
		}
		d := digest.FromBytes(dt)
		last = &vertex{op: op, meta: def.Metadata[d.String()]}
		all[d] = last
	}
	// Every source op counts, also one that nothing depends on.
	for _, v := range all {
		if src := v.op.GetSource(); src != nil && policy != nil {
			if _, err := policy.Evaluate(ctx, src); err != nil {
				return edge{}, fmt.Errorf("error evaluating the source policy: %w", err)
			}
		}
	}
	for _, v := range all {
		if err := v.finish(all); err != nil {
			return edge{}, err
		}
	}
	if len(all) < 2 {
		return edge{}, fmt.Errorf("invalid LLB with %d vertexes", len(all))
	}
	if len(last.op.Inputs) == 0 {
		return edge{}, errors.New("invalid LLB with no inputs on last vertex")
	}
	return last.inputs[0], b.check(last.inputs[0].vertex, map[*vertex]bool{})
}

// finish links v to its inputs and computes its digest anew, inputs first.
func (v *vertex) finish(all map[digest.Digest]*vertex) error {
	if v.digest != "" {
		return nil
	}
	for _, in := range v.op.Inputs {
		input, ok := all[digest.Digest(in.Digest)]
		if !ok {
			return fmt.Errorf("invalid missing input digest %s", in.Digest)
		}
		if err := input.finish(all); err != nil {
			return err
		}
		in.Digest = input.digest.String()
		v.inputs = append(v.inputs, edge{input, in.Index})
	}
	dt, err := v.op.Marshal()
	if err != nil {
		return err
	}
	v.digest = digest.FromBytes(dt)
	return nil
}

// check validates v and all it depends on.
func (b *Builder) check(v *vertex, seen map[*vertex]bool) error {
	if seen[v] {
		return nil
	}
	seen[v] = true
	for c := range v.meta.GetCaps() {
		if !b.has(c) {
			return fmt.Errorf("requested capability %s is not supported", c)
		}
	}
	if err := b.validate(v.op); err != nil {
		return err
	}
	for _, in := range v.inputs {
		if err := b.check(in.vertex, seen); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) has(c string) bool {
	for _, known := range pb.Caps.All() {
		if known.ID == c {
			return known.Enabled && !b.lacks(c)
		}
	}
	return false
}

// validate checks one op as ops/opsutils does, and its source as
// source.Manager does.
func (b *Builder) validate(op *pb.Op) error {
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		if len(op.Inputs) != 0 {
			return fmt.Errorf("invalid source op with %d inputs", len(op.Inputs))
		}
		return b.validateSource(o.Source)
	case *pb.Op_Exec:
		if len(o.Exec.GetMeta().GetArgs()) == 0 {
			return errors.New("invalid exec op with no args")
		}
		if !slices.ContainsFunc(o.Exec.Mounts, func(m *pb.Mount) bool { return m.Dest == pb.RootMount }) {
			return errors.New("invalid exec op with no rootfs")
		}
	case *pb.Op_File:
		if len(o.File.GetActions()) == 0 {
			return errors.New("invalid file op with no actions")
		}
	case *pb.Op_Merge, *pb.Op_Diff, *pb.Op_Build:
	default:
		return fmt.Errorf("invalid op type %T", op.Op)
	}
	return nil
}

func (b *Builder) validateSource(src *pb.SourceOp) error {
	scheme, ref, ok := strings.Cut(src.GetIdentifier(), "://")
	if !ok {
		return fmt.Errorf("failed to parse %s: invalid", src.GetIdentifier())
	}
	switch scheme {
	case srctypes.OCIScheme:
		if b.lacks(string(pb.CapSourceOCILayout)) {
			return fmt.Errorf("no handler for %s", scheme)
		}
		fallthrough
	case srctypes.DockerImageScheme:
		spec, err := cref.Parse(ref)
		if err != nil {
			return err
		}
		if spec.Object == "" {
			return cref.ErrObjectRequired
		}
	case srctypes.LocalScheme, srctypes.GitScheme, srctypes.HTTPScheme, srctypes.HTTPSScheme:
	default:
		return fmt.Errorf("no handler for %s", scheme)
	}
	return nil
}

func checkLocations(src *pb.Source) error {
	for d, locs := range src.GetLocations() {
		if locs == nil {
			return fmt.Errorf("invalid nil source locations for vertex %s", d)
		}
		for i, loc := range locs.Locations {
			if loc == nil {
				return fmt.Errorf("invalid nil source location %d for vertex %s", i, d)
			}
			if loc.SourceIndex < 0 || int(loc.SourceIndex) >= len(src.Infos) {
				return fmt.Errorf("invalid source index %d for vertex %s", loc.SourceIndex, d)
			}
		}
	}
	return nil
}

// platform is the normalised platform of v.
func (v *vertex) platform() platforms.Platform {
	if p := v.op.GetPlatform(); p != nil {
		return platforms.Normalize(p.Spec())
	}
	return platforms.DefaultSpec()
}

// describe says what an op does.
func describe(op *pb.Op) string {
	switch o := op.GetOp().(type) {
	case *pb.Op_Source:
		return o.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(o.Exec.GetMeta().GetArgs(), " ")
	case *pb.Op_File:
		return "file"
	}
	return fmt.Sprintf("%T", op.GetOp())
}

// operations returns the ops of a definition by digest.
func operations(def *pb.Definition) map[string]*pb.Op {
	ops := map[string]*pb.Op{}
	for _, dt := range def.GetDef() {
		op := &pb.Op{}
		if op.UnmarshalVT(dt) == nil {
			ops[digest.FromBytes(dt).String()] = op
		}
	}
	return ops
}

// summary says what a definition results in, and whether the cache is ignored
// for it.
func summary(def *pb.Definition) string {
	n := len(def.GetDef())
	if n == 0 {
		return "nothing"
	}
	last := &pb.Op{}
	if err := last.UnmarshalVT(def.Def[n-1]); err != nil || len(last.Inputs) == 0 {
		return "no result"
	}
	d := last.Inputs[0].Digest
	text := describe(operations(def)[d])
	if def.Metadata[d].GetIgnoreCache() {
		text += " (cache ignored)"
	}
	return text
}
