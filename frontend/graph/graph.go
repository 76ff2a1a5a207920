// Package graph rewrites LLB definitions. It knows nothing of names, memory or
// the network: callers say what to replace.
//
// Every rewrite keeps metadata and source locations attached to the vertices
// they describe, under their new digests, and is deterministic.
package graph

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// ErrInvalid is wrapped by the error for a definition that is not a graph: an
// op that does not parse, or an input that is missing.
var ErrInvalid = errors.New("invalid definition")

// vertex is one op of a definition, with the digest and the metadata it has
// there.
type vertex struct {
	op     *pb.Op
	digest string
	meta   *pb.OpMetadata
}

// parse returns the vertices of def in its order, in which every vertex comes
// after its inputs (llb.State.Marshal writes it so).
func parse(def *pb.Definition) ([]*vertex, error) {
	vs := make([]*vertex, 0, len(def.GetDef()))
	for i, dt := range def.GetDef() {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("%w: op %d: %w", ErrInvalid, i, err)
		}
		d := digest.FromBytes(dt).String()
		vs = append(vs, &vertex{op: op, digest: d, meta: def.GetMetadata()[d]})
	}
	return vs, nil
}

// assemble returns a definition like def with the vertices vs, which may have
// been changed: digests are computed anew and everything keyed by one follows.
// The ops in apart are added where nothing depends on them. def stays as it is.
func assemble(def *pb.Definition, vs []*vertex, apart []*pb.Op) (*pb.Definition, error) {
	out := &pb.Definition{Metadata: make(map[string]*pb.OpMetadata, len(vs))}
	for _, op := range apart {
		dt, err := op.Marshal()
		if err != nil {
			return nil, err
		}
		out.Def = append(out.Def, dt)
	}
	renamed := make(map[string]string, len(vs))
	for _, v := range vs {
		for _, in := range v.op.GetInputs() {
			d, ok := renamed[in.Digest]
			if !ok {
				return nil, fmt.Errorf("%w: %s needs %s, which is not before it", ErrInvalid, v.digest, in.Digest)
			}
			in.Digest = d
		}
		dt, err := v.op.Marshal()
		if err != nil {
			return nil, err
		}
		now := digest.FromBytes(dt).String()
		renamed[v.digest] = now
		out.Def = append(out.Def, dt)
		if v.meta != nil {
			out.Metadata[now] = v.meta
		}
	}
	out.Source = relocate(def.GetSource(), renamed)
	return out, nil
}

// locate returns err with the places that a vertex of def comes from.
func locate(def *pb.Definition, vertex string, err error) error {
	for _, loc := range def.GetSource().GetLocations()[vertex].GetLocations() {
		if i := int(loc.SourceIndex); i >= 0 && i < len(def.Source.Infos) {
			err = errdefs.WithSource(err, &errdefs.Source{Info: def.Source.Infos[i], Ranges: loc.Ranges})
		}
	}
	return err
}

// relocate returns src with its locations under the new digests.
func relocate(src *pb.Source, renamed map[string]string) *pb.Source {
	if src == nil {
		return nil
	}
	out := &pb.Source{Infos: src.Infos, Locations: make(map[string]*pb.Locations, len(src.Locations))}
	for old, loc := range src.Locations {
		if now, ok := renamed[old]; ok {
			old = now
		}
		out.Locations[old] = loc
	}
	return out
}
