// Package graph rewrites LLB definitions. It knows nothing of names, memory or
// the network: callers say what to replace.
//
// Every rewrite keeps metadata and source locations attached to the vertices
// they describe, under their new digests, and is deterministic.
package graph

import (
	"errors"
	"fmt"
	"maps"
	"slices"

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
	a := newAssembly()
	for _, op := range apart {
		if _, err := a.emit(op, nil); err != nil {
			return nil, err
		}
	}
	p := a.part()
	for _, v := range vs {
		if err := p.add(v); err != nil {
			return nil, err
		}
	}
	p.locate(def.GetSource())
	return a.def, nil
}

// assembly is a definition in the making. Each vertex is in it once.
type assembly struct {
	def  *pb.Definition
	seen map[string]bool
}

func newAssembly() *assembly {
	return &assembly{def: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}, seen: map[string]bool{}}
}

// emit adds op, if it is new, and returns its digest. Where two definitions have
// one vertex the metadata of the first counts, and the cache is ignored only if
// both say so: a result that was put in the place of an image is the one that
// its build had.
func (a *assembly) emit(op *pb.Op, meta *pb.OpMetadata) (string, error) {
	dt, err := op.Marshal()
	if err != nil { // such as text that is not UTF-8, which is read all the same
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	d := digest.FromBytes(dt).String()
	if a.seen[d] {
		if was := a.def.Metadata[d]; was.GetIgnoreCache() && !meta.GetIgnoreCache() {
			was = was.CloneVT()
			was.IgnoreCache = false
			a.def.Metadata[d] = was
		}
		return d, nil
	}
	a.seen[d] = true
	a.def.Def = append(a.def.Def, dt)
	if meta != nil {
		a.def.Metadata[d] = meta
	}
	return d, nil
}

// output is one output of a vertex.
type output struct {
	digest string
	index  int64
}

// part is one of the definitions that an assembly is made of. renamed says, by
// the digests of that definition, where its vertices are now.
type part struct {
	*assembly
	renamed map[string]string
	// replaced are vertices that an output of another stands for.
	replaced map[string]output
}

func (a *assembly) part() *part {
	return &part{assembly: a, renamed: map[string]string{}, replaced: map[string]output{}}
}

// add adds v, which it changes, after its inputs.
func (p *part) add(v *vertex) error {
	for _, in := range v.op.GetInputs() {
		o, err := p.find(in)
		if err != nil {
			return fmt.Errorf("%s: %w", v.digest, err)
		}
		in.Digest, in.Index = o.digest, o.index
	}
	d, err := p.emit(v.op, v.meta)
	p.renamed[v.digest] = d
	return err
}

// insert adds all of def but its end, and returns what that refers to. meta
// changes the metadata of each vertex, if it is not nil.
func (a *assembly) insert(def *pb.Definition, meta func(*pb.OpMetadata) *pb.OpMetadata) (output, error) {
	vs, err := parse(def)
	if err != nil {
		return output{}, err
	}
	last, vs, err := terminal(vs)
	if err != nil {
		return output{}, err
	}
	p := a.part()
	for _, v := range vs {
		if meta != nil {
			v.meta = meta(v.meta)
		}
		if err := p.add(v); err != nil {
			return output{}, err
		}
	}
	p.locate(def.GetSource())
	return p.find(last)
}

// find returns what an input is now.
func (p *part) find(in *pb.Input) (output, error) {
	if o, ok := p.replaced[in.Digest]; ok {
		if in.Index != 0 {
			return output{}, fmt.Errorf("%w: output %d of an image", ErrInvalid, in.Index)
		}
		return o, nil
	}
	d, ok := p.renamed[in.Digest]
	if !ok {
		return output{}, fmt.Errorf("%w: input %s is not before it", ErrInvalid, in.Digest)
	}
	return output{d, in.Index}, nil
}

// locate adds the places that the vertices of the part come from.
func (p *part) locate(src *pb.Source) {
	if src == nil {
		return
	}
	all := p.def.Source
	if all == nil {
		all = &pb.Source{Locations: map[string]*pb.Locations{}}
		p.def.Source = all
	}
	at := make([]int32, len(src.Infos))
	for i, info := range src.Infos {
		at[i] = int32(slices.IndexFunc(all.Infos, info.EqualVT))
		if at[i] < 0 {
			at[i] = int32(len(all.Infos))
			all.Infos = append(all.Infos, info)
		}
	}
	for _, old := range slices.Sorted(maps.Keys(src.Locations)) {
		now, ok := p.renamed[old]
		if !ok {
			continue
		}
		locs := all.Locations[now].CloneVT()
		if locs == nil {
			locs = &pb.Locations{}
		}
		for _, loc := range src.Locations[old].GetLocations() {
			if i := int(loc.GetSourceIndex()); i < 0 || i >= len(at) {
				continue
			}
			loc = loc.CloneVT()
			loc.SourceIndex = at[loc.SourceIndex]
			if !slices.ContainsFunc(locs.Locations, loc.EqualVT) {
				locs.Locations = append(locs.Locations, loc)
			}
		}
		all.Locations[now] = locs
	}
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
