package graph

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// Record returns def as another build can use it at another time: without what
// belongs to the build that it comes from. The cache key of every vertex stays
// what it is.
//
// What goes: that the cache is ignored, proxy settings (they may hold
// credentials, and are part of no key), ids of progress groups, and of the files
// that the steps come from all but the lines they stand on. The same build gives
// the same definition each time.
func Record(def *pb.Definition) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for _, v := range vs {
		if m := v.op.GetExec().GetMeta(); m != nil {
			m.ProxyEnv = nil
		}
		if v.meta == nil {
			continue
		}
		v.meta = v.meta.CloneVT()
		v.meta.IgnoreCache = false
		delete(v.meta.Caps, string(pb.CapMetaIgnoreCache))
		delete(v.meta.Caps, string(pb.CapExecMetaProxy))
		if g := v.meta.ProgressGroup; g != nil {
			if _, ok := groups[g.Id]; !ok {
				groups[g.Id] = strconv.Itoa(len(groups))
			}
			g.Id = groups[g.Id]
		}
	}
	out, err := assemble(def, vs, nil)
	if err != nil {
		return nil, err
	}
	out.Source = located(out.Source)
	return out, nil
}

// located returns src with only those lines of its files that a vertex comes
// from, and without the definitions that the files were loaded by, which belong
// to a session.
func located(src *pb.Source) *pb.Source {
	if src == nil {
		return nil
	}
	kept := make([]map[int]bool, len(src.Infos))
	for _, locs := range src.Locations {
		for _, loc := range locs.GetLocations() {
			lines := kept[loc.SourceIndex]
			if lines == nil {
				lines = map[int]bool{}
				kept[loc.SourceIndex] = lines
			}
			for _, r := range loc.Ranges {
				for l := r.GetStart().GetLine(); l <= r.GetEnd().GetLine(); l++ {
					lines[int(l)] = true
				}
			}
		}
	}
	out := &pb.Source{Locations: src.Locations}
	for i, info := range src.Infos {
		lines := bytes.Split(info.Data, []byte("\n"))
		for n := range lines {
			if !kept[i][n+1] {
				lines[n] = nil
			}
		}
		out.Infos = append(out.Infos, &pb.SourceInfo{
			Filename: info.Filename, Language: info.Language, Data: bytes.Join(lines, []byte("\n")),
		})
	}
	return out
}

// Marshal returns the bytes of a definition, always the same for the same one.
func Marshal(def *pb.Definition) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(def)
}

// Unmarshal is the inverse of Marshal.
func Unmarshal(dt []byte) (*pb.Definition, error) {
	def := &pb.Definition{}
	if err := proto.Unmarshal(dt, def); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return def, nil
}
