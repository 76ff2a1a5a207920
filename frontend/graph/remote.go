package graph

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
)

// Remote is a source that a definition takes from a git repository or a web
// server.
type Remote struct {
	// Git is true for a repository, false for a file.
	Git bool
	// Address is where it is.
	Address string
	// Ref is the branch, tag or commit of a repository, empty for its default
	// branch.
	Ref string
	// Pinned is true where the source says itself which content it must have.
	Pinned bool
	// ID tells apart sources that are not the same in every respect.
	ID string
	// Op is the source itself.
	Op *pb.SourceOp
}

// remoteOf returns the remote source that src is.
func remoteOf(src *pb.SourceOp) (Remote, bool) {
	id := src.GetIdentifier()
	scheme, rest, _ := strings.Cut(id, "://")
	switch scheme {
	case srctypes.GitScheme:
		address, fragment, _ := strings.Cut(rest, "#")
		ref, _, _ := strings.Cut(fragment, ":")
		if full := src.Attrs[pb.AttrFullRemoteURL]; full != "" {
			address = full
		}
		pinned := commit().MatchString(ref) || src.Attrs[pb.AttrGitChecksum] != ""
		return Remote{Git: true, Address: address, Ref: ref, Pinned: pinned, ID: sourceID(src), Op: src}, true
	case srctypes.HTTPScheme, srctypes.HTTPSScheme:
		return Remote{Address: id, Pinned: src.Attrs[pb.AttrHTTPChecksum] != "", ID: sourceID(src), Op: src}, true
	}
	return Remote{}, false
}

// sourceID is the same for two sources if all that they say is.
func sourceID(src *pb.SourceOp) string {
	parts := []string{src.Identifier}
	for _, k := range slices.Sorted(maps.Keys(src.Attrs)) {
		parts = append(parts, k+"="+src.Attrs[k])
	}
	return strings.Join(parts, "\x00")
}

// Remotes returns the remote sources of def, in its order.
func Remotes(def *pb.Definition) ([]Remote, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	var out []Remote
	for _, v := range vs {
		if r, ok := remoteOf(v.op.GetSource()); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// Pin returns def with each remote source for which pin returns a value held to
// that: a file to its digest, a repository to its commit, which takes the place
// of the ref, so that nobody has to be asked what the ref is by now. Where there
// is nothing to pin, def itself is returned. An error of pin is returned as it
// is.
func Pin(def *pb.Definition, pin func(Remote) (string, error)) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	changed := false
	for _, v := range vs {
		src := v.op.GetSource()
		r, ok := remoteOf(src)
		if !ok || r.Pinned {
			continue
		}
		value, err := pin(r)
		if err != nil {
			return nil, err
		}
		if value == "" {
			continue
		}
		changed = true
		pinSource(src, r, value)
		if !r.Git {
			v.meta = withCapability(v.meta, string(pb.CapSourceHTTPChecksum))
		}
	}
	if !changed {
		return def, nil
	}
	return assemble(def, vs, nil)
}

// PinSource returns src held to what pin returns for it, src itself where that
// is nothing.
func PinSource(src *pb.SourceOp, pin func(Remote) (string, error)) (*pb.SourceOp, error) {
	r, ok := remoteOf(src)
	if !ok || r.Pinned {
		return src, nil
	}
	value, err := pin(r)
	if err != nil || value == "" {
		return src, err
	}
	src = src.CloneVT()
	pinSource(src, r, value)
	return src, nil
}

func pinSource(src *pb.SourceOp, r Remote, value string) {
	if !r.Git {
		if src.Attrs == nil {
			src.Attrs = map[string]string{}
		}
		src.Attrs[pb.AttrHTTPChecksum] = value
		return
	}
	where, fragment, _ := strings.Cut(src.Identifier, "#")
	_, dir, scoped := strings.Cut(fragment, ":")
	src.Identifier = where + "#" + value
	if scoped {
		src.Identifier += ":" + dir
	}
}

// withCapability returns meta with one capability more.
func withCapability(meta *pb.OpMetadata, c string) *pb.OpMetadata {
	if meta == nil {
		meta = &pb.OpMetadata{}
	}
	meta = meta.CloneVT()
	if meta.Caps == nil {
		meta.Caps = map[string]bool{}
	}
	meta.Caps[c] = true
	return meta
}

// Places returns, for each image and remote source of def, where in the
// Dockerfile it is used: by its own location, or by that of the steps that use
// it. Images are keyed by their reference, remote sources by their ID.
func Places(def *pb.Definition) (map[string][]*pb.Range, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, v := range vs {
		for _, in := range v.op.GetInputs() {
			users[in.Digest] = append(users[in.Digest], v.digest)
		}
	}
	out := map[string][]*pb.Range{}
	for _, v := range vs {
		key := ""
		if img, ok := imageOf(v.op); ok {
			key = img.Ref.String()
		} else if r, ok := remoteOf(v.op.GetSource()); ok {
			key = r.ID
		}
		if key == "" {
			continue
		}
		ranges := rangesOf(def, v.digest)
		for _, user := range users[v.digest] {
			if len(ranges) > 0 {
				break
			}
			ranges = append(ranges, rangesOf(def, user)...)
		}
		out[key] = append(out[key], ranges...)
	}
	return out, nil
}

func rangesOf(def *pb.Definition, vertex string) (out []*pb.Range) {
	for _, loc := range def.GetSource().GetLocations()[vertex].GetLocations() {
		out = append(out, loc.Ranges...)
	}
	return out
}
