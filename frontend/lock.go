package frontend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"sync"

	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/lockfile"
)

// Keys of the options that say where the Dockerfile is.
const (
	keyFilename   = "filename"
	keyContextKey = "contextkey"
)

// lock is the Dockerfile.lock of one build. It comes with the Dockerfile: the
// solve that loads the Dockerfile loads the lock as well, and the lock is read
// while BuildKit's frontend reads the Dockerfile.
type lock struct {
	dockerfile string // its path
	probes     int    // solves that come before the one that loads the Dockerfile

	mu      sync.Mutex
	started bool
	done    chan struct{}
	was     digest.Digest // the vertex that BuildKit's frontend asked for
	now     digest.Digest // the one that was solved in its place
	context map[string]bool

	// Valid once done is closed.
	file  *lockfile.File // nil where there is none
	err   error
	empty string // the name of a lock that is empty
}

// newLock returns the lock of a build with opts.
func newLock(opts map[string]string) *lock {
	l := &lock{dockerfile: dockerui.DefaultDockerfileName, done: make(chan struct{}), context: map[string]bool{}}
	if v, ok := opts[keyFilename]; ok {
		l.dockerfile = v
	}
	key := dockerui.DefaultLocalNameContext
	if v, ok := opts[keyContextKey]; ok {
		key = v
	}
	// An http context is downloaded once to see what it is (dockerui,
	// initContext), unless its address is a repository's.
	if _, git, _ := dockerui.DetectGitContext(opts[key], nil); !git {
		if _, _, http := dockerui.DetectHTTPContext(opts[key]); http {
			l.probes = 1
		}
	}
	return l
}

// paths returns where the lock may be, the path that counts first.
func (l *lock) paths() (out []string) {
	for _, name := range lockfile.Names(path.Base(l.dockerfile)) {
		out = append(out, path.Join(path.Dir(l.dockerfile), name))
	}
	return out
}

// own returns the name of the Dockerfile's own lock.
func (l *lock) own() string { return lockfile.Names(path.Base(l.dockerfile))[0] }

// loads reports whether solving def loads the Dockerfile. The remote sources of
// it, and of what comes before it, are the build's main context, which no lock
// can pin: the lock would be in it.
func (l *lock) loads(def *pb.Definition) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started {
		return false, nil
	}
	remotes, err := graph.Remotes(def)
	for _, r := range remotes {
		l.context[r.ID] = true
	}
	l.started = l.probes == 0
	l.probes--
	return l.started, err
}

// load solves the definition that loads the Dockerfile, with the lock in the
// same transfer, and begins to read the lock.
func (l *lock) load(ctx context.Context, c *decorated, req client.SolveRequest) (*client.Result, error) {
	followed, err := graph.Follow(req.Definition, l.paths()...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.was, l.now = followed.Was, followed.Now
	l.mu.Unlock()
	req.Definition = followed.Definition
	c.builder.sawVertex(req.Definition)
	res, err := c.ahead.solve(ctx, req)
	if err != nil {
		l.err = err
		close(l.done)
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // that of one call
	c.ahead.going.Go(func() {
		defer close(l.done)
		ref, err := res.SingleRef()
		if err != nil {
			l.err = err
			return
		}
		l.file, l.err = l.read(ctx, ref)
	})
	return res, nil
}

// vertex returns the digest that a vertex was solved under.
func (l *lock) vertex(d digest.Digest) digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d == l.was && l.now != "" {
		return l.now
	}
	return d
}

// get returns the lock once it has been read, nil where there is none.
func (l *lock) get(ctx context.Context) (*lockfile.File, error) {
	l.mu.Lock()
	started := l.started
	l.mu.Unlock()
	if !started {
		return nil, nil
	}
	select {
	case <-l.done:
		return l.file, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// read reads the lock out of what was loaded.
func (l *lock) read(ctx context.Context, ref client.Reference) (*lockfile.File, error) {
	entries, err := ref.ReadDir(ctx, client.ReadDirRequest{Path: path.Dir(l.dockerfile), IncludePattern: "*" + lockfile.Suffix})
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", lockfile.Default, err)
	}
	there := map[string]*fstypes.Stat{}
	for _, e := range entries {
		there[path.Base(e.Path)] = e
	}
	for _, p := range l.paths() {
		e, ok := there[path.Base(p)]
		if !ok {
			continue
		}
		f, err := parseLock(ctx, ref, p, e)
		if errors.Is(err, lockfile.ErrEmpty) {
			l.empty = path.Base(p)
			continue
		}
		var bad *lockfile.Error
		if errors.As(err, &bad) {
			err = bad.For(l.own())
		}
		return f, err
	}
	return nil, nil
}

// parseLock reads and parses one file.
func parseLock(ctx context.Context, ref client.Reference, p string, e *fstypes.Stat) (*lockfile.File, error) {
	name := path.Base(p)
	mode := os.FileMode(e.Mode)
	if mode.IsDir() {
		return nil, lockfile.NotAFile(name, "it is a directory")
	}
	if !mode.IsRegular() && mode&os.ModeSymlink == 0 {
		return nil, lockfile.NotAFile(name, "it is no regular file")
	}
	data, err := ref.ReadFile(ctx, client.ReadRequest{Filename: p, Range: &client.FileRange{Length: lockfile.MaxSize + 1}})
	switch {
	case err != nil && mode&os.ModeSymlink != 0:
		return nil, lockfile.NotAFile(name, "it is a symbolic link to "+strconv.Quote(e.Linkname)+", which is not there or not in the same folder tree")
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return lockfile.Parse(name, data)
}

// readLock returns the lock of the build, nil where there is none, and says so
// where it is there and empty.
func (c *decorated) readLock(ctx context.Context) (*lockfile.File, error) {
	f, err := c.lock.get(ctx)
	if name := c.lock.empty; err == nil && name != "" {
		c.builder.warnOnce(ctx, "empty lock", name+" is empty, so it counts as absent: "+lockfile.Command(c.lock.own(), "update"))
	}
	return f, err
}

// Warn shows a warning where the vertex that it is about was solved.
func (c *decorated) Warn(ctx context.Context, vertex digest.Digest, msg string, opts client.WarnOpts) error {
	return c.Client.Warn(ctx, c.lock.vertex(vertex), msg, opts)
}

// onLockLine gives an error about the lock its place there, and nothing else:
// where the Dockerfile names an image has nothing to do with it.
func (c *decorated) onLockLine(err error) error {
	var e *lockfile.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Line == 0 {
		return e
	}
	at := &pb.Position{Line: int32(e.Line)}
	return errdefs.WithSource(e, &errdefs.Source{
		Info:   &pb.SourceInfo{Data: e.Data, Filename: e.File, Language: "TOML"},
		Ranges: []*pb.Range{{Start: at, End: at}},
	})
}
