package graph

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
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
	s := splice{
		out:    &pb.Definition{Metadata: map[string]*pb.OpMetadata{}},
		seen:   map[string]bool{},
		places: map[string]*pb.Locations{},
	}
	renamed := make(map[string]output, len(vs))
	first := s.infos(def)
	replaced := false
	for _, v := range vs {
		other, ok := by[v.digest]
		var now output
		if ok {
			replaced = true
			if now, err = s.insert(other); err != nil {
				return nil, fmt.Errorf("in place of %s: %w", v.digest, err)
			}
		} else if now, err = s.add(v, renamed); err != nil {
			return nil, err
		}
		renamed[v.digest] = now
		s.place(def, v.digest, now.digest, first)
	}
	if !replaced {
		return def, nil
	}
	if s.out.Source != nil || def.Source != nil {
		s.source().Locations = s.places
	}
	return s.out, nil
}

// output is what a vertex has become: another vertex, or, where it was
// replaced, one output of another.
type output struct {
	digest   string
	index    int64
	replaced bool
}

// splice is a definition that is put together from others.
type splice struct {
	out    *pb.Definition
	seen   map[string]bool // digests of its vertices
	places map[string]*pb.Locations
}

func (s *splice) source() *pb.Source {
	if s.out.Source == nil {
		s.out.Source = &pb.Source{}
	}
	return s.out.Source
}

// infos adds the files that def comes from, and returns the index of the first.
func (s *splice) infos(def *pb.Definition) int32 {
	first := int32(len(s.out.Source.GetInfos()))
	if infos := def.GetSource().GetInfos(); len(infos) > 0 {
		s.source().Infos = append(s.source().Infos, infos...)
	}
	return first
}

// place gives the vertex now the place that was has in def, whose files begin
// at first.
func (s *splice) place(def *pb.Definition, was, now string, first int32) {
	loc := def.GetSource().GetLocations()[was]
	if loc == nil || s.places[now] != nil {
		return
	}
	loc = loc.CloneVT()
	for _, l := range loc.Locations {
		l.SourceIndex += first
	}
	s.places[now] = loc
}

// add adds a vertex with its inputs under their new names.
func (s *splice) add(v *vertex, renamed map[string]output) (output, error) {
	for _, in := range v.op.GetInputs() {
		now, ok := renamed[in.Digest]
		if !ok {
			return output{}, fmt.Errorf("%w: %s needs %s, which is not before it", ErrInvalid, v.digest, in.Digest)
		}
		if now.replaced && in.Index != 0 {
			return output{}, fmt.Errorf("%w: %s needs output %d of %s, which has one", ErrInvalid, v.digest, in.Index, in.Digest)
		}
		in.Digest = now.digest
		if now.replaced {
			in.Index = now.index
		}
	}
	dt, err := v.op.Marshal()
	if err != nil {
		return output{}, err
	}
	now := output{digest: digest.FromBytes(dt).String()}
	if s.seen[now.digest] {
		return now, nil
	}
	s.seen[now.digest] = true
	s.out.Def = append(s.out.Def, dt)
	if v.meta != nil {
		s.out.Metadata[now.digest] = v.meta
	}
	return now, nil
}

// insert adds all of a definition but its end, and returns what that refers to.
func (s *splice) insert(def *pb.Definition) (output, error) {
	vs, err := parse(def)
	if err != nil {
		return output{}, err
	}
	if len(vs) == 0 {
		return output{}, fmt.Errorf("%w: it has no vertex", ErrInvalid)
	}
	first := s.infos(def)
	renamed := make(map[string]output, len(vs))
	end := vs[len(vs)-1].op
	for _, v := range vs[:len(vs)-1] {
		now, err := s.add(v, renamed)
		if err != nil {
			return output{}, err
		}
		renamed[v.digest] = now
		s.place(def, v.digest, now.digest, first)
	}
	if end.Op != nil || len(end.Inputs) != 1 {
		return output{}, fmt.Errorf("%w: it does not end with one result", ErrInvalid)
	}
	result, ok := renamed[end.Inputs[0].Digest]
	if !ok {
		return output{}, fmt.Errorf("%w: its result is not in it", ErrInvalid)
	}
	return output{digest: result.digest, index: end.Inputs[0].Index, replaced: true}, nil
}
