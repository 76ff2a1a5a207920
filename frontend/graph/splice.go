package graph

import (
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// keyName is where a vertex has the name that the user sees.
const keyName = "llb.customname"

// keyResult is where a vertex has the name of the result that it came from, so
// that it keeps that name when it becomes part of another result.
const keyResult = "localfront.result"

// Result is what stands for an image.
type Result struct {
	// Name is what its steps are shown under.
	Name string
	// Definition is what Record returned.
	Definition *pb.Definition
}

// Splice returns def with every image for which result returns one replaced by
// that result's definition: what used the image uses what the definition
// results in. Vertices that both have are there once.
//
// Where there is nothing to replace, def itself is returned. An error of result
// is returned with the places in the Dockerfile that the image comes from.
func Splice(def *pb.Definition, result func(Image) (*Result, error)) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	a := newAssembly()
	own := a.part()
	changed := false
	for _, v := range vs {
		r, err := resultOf(v, result)
		if err != nil {
			return nil, locate(def, v.digest, err)
		}
		if r == nil {
			if err := own.add(v); err != nil {
				return nil, err
			}
			continue
		}
		changed = true
		// Groups of one name that come from several builds are drawn apart.
		group := digest.FromString(r.Name).Encoded()
		own.replaced[v.digest], err = a.insert(r.Definition, func(meta *pb.OpMetadata) *pb.OpMetadata {
			return prefixed(meta, r.Name, group)
		})
		if err != nil {
			return nil, locate(def, v.digest, err)
		}
	}
	if !changed {
		return def, nil
	}
	own.locate(def.GetSource())
	return a.def, nil
}

func resultOf(v *vertex, result func(Image) (*Result, error)) (*Result, error) {
	img, ok := imageOf(v.op)
	if !ok {
		return nil, nil
	}
	return result(img)
}

// prefixed returns meta with the name of a result before that of its step, as
// bake shows the steps of its targets.
func prefixed(meta *pb.OpMetadata, name, group string) *pb.OpMetadata {
	if _, done := meta.GetDescription()[keyResult]; done || meta == nil {
		return meta
	}
	meta = meta.CloneVT()
	if meta.Description == nil {
		meta.Description = map[string]string{}
	}
	meta.Description[keyResult] = name
	if step, ok := meta.Description[keyName]; ok {
		meta.Description[keyName] = prefix(name, step)
	}
	if g := meta.ProgressGroup; g != nil {
		g.Id = group + "-" + g.Id
		g.Name = prefix(name, g.Name)
	}
	return meta
}

func prefix(name, step string) string {
	if rest, ok := strings.CutPrefix(step, "["); ok {
		return "[" + name + " " + rest
	}
	return "[" + name + "] " + step
}
