package fakegateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// result is what a vertex evaluates to.
type result struct {
	image *pulled           // an image, its layers maybe elsewhere
	files map[string]string // what is known of its files, nil where nothing is
	agent bool              // it is a record of the ledger, or a digest of a context
}

// flight is one vertex of the builds that run now. Builds that need the same
// vertex share it, and the result stays with it until the last one ends
// (solver/jobs.go).
type flight struct {
	mu          sync.Mutex
	ignoreCache bool
	sessions    map[*Session]bool
	done        *result
	failed      error // a container's, which nobody runs again meanwhile
	key         digest.Digest
}

// flight returns the shared state of v. One that ignores the cache serves all
// others, and is not served by one that does not.
func (b *Builder) flight(s *Session, v *vertex) *flight {
	ignore := v.meta.GetIgnoreCache()
	fresh := digest.FromString(v.digest.String() + "-ignorecache")
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.active[fresh]
	at := v.digest
	if !ok {
		f, ok = b.active[at]
		if ok && ignore && !f.ignoreCache {
			at, ok = fresh, false
		}
	}
	if !ok {
		f = &flight{ignoreCache: ignore, sessions: map[*Session]bool{}}
		b.active[at] = f
	}
	f.sessions[s] = true
	return f
}

// merge returns the vertex of a build that still runs with the same cache key as
// f, for f to be merged into, and otherwise makes f the one that others are
// merged into. One that ignores the cache is merged only into one that does
// (solver/index.go, LoadOrStore; solver/scheduler.go, mergeTo). It stays for as
// long as any build that was merged into it.
func (b *Builder) merge(s *Session, f *flight, key digest.Digest) *flight {
	b.mu.Lock()
	defer b.mu.Unlock()
	other, ok := b.index[key]
	if ok && other != f && (other.ignoreCache || !f.ignoreCache) {
		other.sessions[s] = true
		return other
	}
	b.index[key] = f
	return nil
}

// land ends a session's part in all vertices.
func (b *Builder) land(s *Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, f := range b.active {
		delete(f.sessions, s)
		if len(f.sessions) == 0 {
			delete(b.active, d)
			maps.DeleteFunc(b.index, func(_ digest.Digest, in *flight) bool { return in == f })
		}
	}
}

// evaluate returns the result of v, and its cache key.
func (s *Session) evaluate(ctx context.Context, v *vertex) (*result, digest.Digest, error) {
	f := s.builder.flight(s, v)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done != nil {
		return f.done, f.key, nil
	}
	if f.failed != nil {
		return nil, "", f.failed
	}
	res, key, err := s.run(ctx, v, f)
	if err != nil {
		return nil, "", errdefs.WrapVertex(err, v.digest)
	}
	f.done, f.key = res, key
	return res, key, nil
}

// run evaluates v, from the cache if that has it.
func (s *Session) run(ctx context.Context, v *vertex, f *flight) (*result, digest.Digest, error) {
	if src := v.op.GetSource(); src != nil {
		return s.source(ctx, v, src)
	}
	key, err := cacheKey(v.op)
	if err != nil {
		return nil, "", err
	}
	keys := []string{key.String(), platforms.FormatAll(v.platform())}
	var inputs []*result
	for _, in := range v.inputs {
		res, k, err := s.evaluate(ctx, in.vertex)
		if err != nil {
			return nil, "", err
		}
		inputs = append(inputs, res)
		keys = append(keys, fmt.Sprintf("%s:%d", k, in.index))
	}
	key = digest.FromString(strings.Join(keys, " "))
	b := s.builder
	if other := b.merge(s, f, key); other != nil {
		other.mu.Lock()
		defer other.mu.Unlock()
		if other.done != nil || other.failed != nil {
			return other.done, key, other.failed
		}
	}
	b.mu.Lock()
	hit, ok := b.cache[key]
	b.mu.Unlock()
	if ok && !v.meta.GetIgnoreCache() {
		return hit, key, nil
	}
	for _, in := range inputs {
		if in.image != nil && needsFiles(v.op) {
			if err := b.unlazy(ctx, in.image); err != nil {
				return nil, "", err
			}
		}
	}
	res := &result{files: made(v.op)}
	if exec := v.op.GetExec(); exec != nil {
		if res, err = s.container(ctx, exec, inputs); err != nil {
			if ctx.Err() == nil {
				f.failed = err
			}
			return nil, "", err
		}
	}
	b.mu.Lock()
	b.cache[key] = res // the newest counts
	b.mu.Unlock()
	return res, key, nil
}

// cacheKey is the key of an op apart from its inputs (ops.ExecOp.CacheMap).
func cacheKey(op *pb.Op) (digest.Digest, error) {
	op = op.CloneVT()
	op.Inputs = nil
	op.Platform = nil
	if m := op.GetExec().GetMeta(); m != nil {
		m.ProxyEnv = nil
		for _, h := range m.ExtraHosts {
			h.IP = ""
		}
	}
	dt, err := op.Marshal()
	return digest.FromBytes(dt), err
}

// made returns the files of an op that makes files and nothing else, nil for any
// other.
func made(op *pb.Op) map[string]string {
	actions := op.GetFile().GetActions()
	if len(op.Inputs) > 0 || len(actions) == 0 {
		return nil
	}
	files := map[string]string{}
	for _, a := range actions {
		f := a.GetMkfile()
		if f == nil {
			return nil
		}
		files[strings.TrimPrefix(f.Path, "/")] = string(f.Data)
	}
	return files
}

func needsFiles(op *pb.Op) bool { return op.GetExec() != nil || op.GetFile() != nil }

// container starts a container on the results that are its inputs.
func (s *Session) container(ctx context.Context, exec *pb.ExecOp, inputs []*result) (*result, error) {
	args := exec.Meta.Args
	if err := s.builder.log.add(ctx, Call{Kind: Container, What: strings.Join(args, " ")}); err != nil {
		return nil, err
	}
	switch args[0] {
	case "/agent":
		return record(exec)
	case "/freeze":
		return s.builder.freeze(exec, inputs)
	}
	return &result{}, nil
}

// record is what the ledger's agent does.
func record(exec *pb.ExecOp) (*result, error) {
	env := exec.Meta.ProxyEnv
	value := env.GetHttpProxy() + env.GetHttpsProxy() + env.GetFtpProxy() + env.GetAllProxy()
	for _, part := range []string{env.GetHttpProxy(), env.GetHttpsProxy(), env.GetFtpProxy(), env.GetAllProxy()} {
		if len(part) > 128<<10-len("HTTPS_PROXY=")-1 {
			return nil, fmt.Errorf("exec /agent: argument list too long")
		}
	}
	return &result{files: map[string]string{"value": value}, agent: true}, nil
}

// source evaluates a source op.
func (s *Session) source(ctx context.Context, v *vertex, src *pb.SourceOp) (*result, digest.Digest, error) {
	scheme, name, _ := cutScheme(src.Identifier)
	switch scheme {
	case "docker-image", "oci-layout":
		return s.imageSource(ctx, v, src)
	case "local":
		files, err := s.local(name, src.Attrs)
		if err != nil {
			return nil, "", err
		}
		return &result{files: files}, digest.FromBytes(marshal(files)), nil
	}
	return &result{}, digest.FromBytes(marshal(src)), nil
}

func (s *Session) imageSource(ctx context.Context, v *vertex, src *pb.SourceOp) (*result, digest.Digest, error) {
	ref, from, err := s.remote(src, src.Attrs[pb.AttrImageResolveMode])
	if err != nil {
		return nil, "", err
	}
	img, err := s.builder.pull(ctx, ref, v.platform(), from)
	if err != nil {
		return nil, "", err
	}
	if err := img.checksum(ref, src.Attrs[pb.AttrImageChecksum]); err != nil {
		return nil, "", err
	}
	limit := src.Attrs[pb.AttrImageLayerLimit] + src.Attrs[pb.AttrOCILayoutLayerLimit]
	if err := img.limit(limit); err != nil {
		return nil, "", err
	}
	key := digest.FromString(fmt.Sprintf("%s %s %s", img.root, platforms.FormatAll(v.platform()), limit))
	return &result{image: img}, key, nil
}

// local returns the files of a local source.
func (s *Session) local(name string, attrs map[string]string) (map[string]string, error) {
	session := attrs[pb.AttrLocalSessionID]
	if session != "" && session != s.id {
		return nil, fmt.Errorf("no active session for %s: %w", session, context.DeadlineExceeded)
	}
	all, ok := s.build.Locals[name]
	if !ok {
		return nil, fmt.Errorf("no access allowed to dir %q", name)
	}
	follow, err := patterns(attrs[pb.AttrFollowPaths])
	if err != nil {
		return nil, err
	}
	include, err := patterns(attrs[pb.AttrIncludePatterns])
	if err != nil {
		return nil, err
	}
	exclude, err := patterns(attrs[pb.AttrExcludePatterns])
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for p, dt := range all {
		in, out := len(follow)+len(include) == 0, false
		if slices.ContainsFunc(follow, func(f string) bool {
			return p == path.Clean(f) || strings.HasPrefix(p, path.Clean(f)+"/") || path.Clean(f) == "."
		}) {
			in = true
		}
		if !in {
			if in, err = patternmatcher.MatchesOrParentMatches(p, include); err != nil {
				return nil, err
			}
		}
		if out, err = patternmatcher.MatchesOrParentMatches(p, exclude); err != nil {
			return nil, err
		}
		if in && !out {
			files[p] = dt
		}
	}
	return files, nil
}

func patterns(attr string) (list []string, err error) {
	if attr == "" {
		return nil, nil
	}
	err = json.Unmarshal([]byte(attr), &list)
	return list, err
}

// file returns a file of a result. It needs the layers of an image.
func (s *Session) file(ctx context.Context, res *result, name string) (string, error) {
	if res.image != nil {
		if err := s.builder.unlazy(ctx, res.image); err != nil {
			return "", err
		}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "", nil
	}
	if res.files == nil {
		return "", errOpaque
	}
	dt, ok := res.files[name]
	if !ok {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return dt, nil
}

// list returns what is in a folder of a result and matches pattern.
func (r *result) list(dir, pattern string) ([]*fstypes.Stat, error) {
	if r.files == nil {
		return nil, errOpaque
	}
	dir = strings.TrimPrefix(path.Clean("/"+dir)+"/", "/")
	modes := map[string]fs.FileMode{}
	for p := range r.files {
		below, ok := strings.CutPrefix(p, strings.TrimPrefix(dir, "/"))
		if !ok {
			continue
		}
		name, _, folder := strings.Cut(below, "/")
		match, err := path.Match(pattern, name)
		if err != nil {
			return nil, err
		}
		if match || pattern == "" {
			modes[name] = 0o644
			if folder {
				modes[name] = fs.ModeDir | 0o755
			}
		}
	}
	var out []*fstypes.Stat
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		out = append(out, &fstypes.Stat{Path: name, Mode: uint32(modes[name])})
	}
	return out, nil
}

func cutScheme(identifier string) (scheme, rest string, ok bool) {
	return strings.Cut(identifier, "://")
}
