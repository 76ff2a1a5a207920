package graph

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// Part is one vertex of a definition by itself.
type Part struct {
	// Digest is the vertex's digest in the definition it was taken from.
	Digest string
	// Op is the vertex, not to be changed.
	Op *pb.Op
	// Definition has the vertex as its result.
	Definition *pb.Definition
}

// Sources returns the sources of def whose identifiers start with scheme, such
// as "local://", in the order of def.
func Sources(def *pb.Definition, scheme string) ([]Part, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	var parts []Part
	for i, v := range vs {
		if !strings.HasPrefix(v.op.GetSource().GetIdentifier(), scheme) {
			continue
		}
		result, err := (&pb.Op{Inputs: []*pb.Input{{Digest: v.digest}}}).Marshal()
		if err != nil {
			return nil, err
		}
		alone := &pb.Definition{Def: [][]byte{def.Def[i], result}, Metadata: map[string]*pb.OpMetadata{}}
		if v.meta != nil {
			alone.Metadata[v.digest] = v.meta
		}
		if loc := def.GetSource().GetLocations()[v.digest]; loc != nil {
			alone.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{v.digest: loc}}
		}
		parts = append(parts, Part{Digest: v.digest, Op: v.op, Definition: alone})
	}
	return parts, nil
}

// Replace returns def with vertices replaced by the results of other
// definitions, by their digest in def. A vertex that is replaced has one
// output. What is in several of the definitions comes out once, with the
// metadata and places of the first. Where nothing is replaced, def itself is
// returned.
func Replace(def *pb.Definition, by map[string]*pb.Definition) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	a := newAssembly()
	own := a.part()
	replaced := false
	for _, v := range vs {
		other, ok := by[v.digest]
		if !ok {
			if err := own.add(v); err != nil {
				return nil, err
			}
			continue
		}
		replaced = true
		now, err := a.insert(other, nil)
		if err != nil {
			return nil, fmt.Errorf("in place of %s: %w", v.digest, err)
		}
		own.replaced[v.digest] = now
		own.renamed[v.digest] = now.digest // has its place as well
	}
	if !replaced {
		return def, nil
	}
	own.locate(def.GetSource())
	return a.def, nil
}
