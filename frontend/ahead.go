package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	fstypes "github.com/tonistiigi/fsutil/types"
)

const (
	localScheme  = srctypes.LocalScheme + "://"
	ignoreSuffix = ".dockerignore"
)

// ahead does what BuildKit's frontend is going to do before it does: that asks
// for one thing after the other, and a warm build is little more than the sum
// of these waits. It changes no answer: what is asked for ahead and not wanted
// is forgotten.
//
//   - Files are read at the same time, before they are asked for, and without
//     waiting for the stat that comes before each.
//   - The ledger is read for the Dockerfile's names as soon as it is here.
//   - .dockerignore is loaded as soon as nothing is left that could fail before.
type ahead struct {
	client client.Client
	opts   map[string]string // as BuildKit gave them: dockerui changes those of bopts
	// expect is called with the Dockerfile. hasIgnore waits for the answer
	// whether an ignore file of its own came with it.
	expect func(ctx context.Context, dockerfile []byte, hasIgnore func() bool)

	going sync.WaitGroup // whatever has been started

	mu    sync.Mutex
	asked map[string]bool // what BuildKit's frontend has asked for, by the last op
	early *solving        // nil where nothing was begun, or once it was taken
}

// errAsked says that BuildKit's frontend was quicker.
var errAsked = errors.New("already asked for")

// solving is a request that was made before BuildKit's frontend made it.
type solving struct {
	last string // op of its definition
	done chan struct{}
	res  *client.Result
	err  error
}

// begin makes a request that is going to be made, unless it has been.
func (a *ahead) begin(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	s := &solving{last: last(req.Definition), done: make(chan struct{})}
	a.mu.Lock()
	asked := a.asked[s.last]
	if !asked {
		a.early = s
	}
	a.mu.Unlock()
	if asked {
		return nil, errAsked
	}
	defer close(s.done)
	s.res, s.err = a.load(ctx, req)
	return s.res, s.err
}

// begun returns the request that was made ahead for req, once, nil if none was.
func (a *ahead) begun(req client.SolveRequest) *solving {
	key := last(req.Definition)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.early
	if s == nil || s.last != key {
		a.asked[key] = true
		return nil
	}
	a.early = nil
	return s
}

// last is the last op of a definition. It names the others by their digests, so
// it tells one definition from another.
func last(def *pb.Definition) string {
	if ops := def.GetDef(); len(ops) > 0 {
		return string(ops[len(ops)-1])
	}
	return ""
}

// solve solves, unless that was begun before.
func (a *ahead) solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	s := a.begun(req)
	if s == nil {
		return a.load(ctx, req)
	}
	select {
	case <-s.done:
		return s.res, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// load solves, and reads ahead if the request loads some files.
func (a *ahead) load(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	res, err := a.client.Solve(ctx, req)
	ctx = context.WithoutCancel(ctx)
	paths := followed(req.Definition)
	if err != nil || len(paths) == 0 {
		return res, err
	}
	ref, err := res.SingleRef()
	if err != nil || ref == nil {
		return res, nil
	}
	files := &loadedFiles{Reference: ref, going: &a.going, files: map[string]*loadedFile{}}
	if len(paths) > 1 && paths[1] == paths[0]+ignoreSuffix {
		files.look(ctx, paths[1])
		files.read(ctx, paths[0], func(ctx context.Context, dockerfile []byte) {
			if a.expect == nil {
				return
			}
			a.expect(ctx, dockerfile, func() bool {
				_, err := files.StatFile(ctx, client.StatRequest{Path: paths[1]})
				return err == nil
			})
		})
	} else {
		files.look(ctx, paths[0])
	}
	res.SetRef(files)
	return res, nil
}

// followed returns the files that a definition loads from the user's machine if
// it does nothing else, the one that is wanted first.
func followed(def *pb.Definition) []string {
	if len(def.GetDef()) != 2 {
		return nil
	}
	var op pb.Op
	if err := op.UnmarshalVT(def.Def[0]); err != nil {
		return nil
	}
	src := op.GetSource()
	if !strings.HasPrefix(src.GetIdentifier(), localScheme) {
		return nil
	}
	var paths []string
	if err := json.Unmarshal([]byte(src.Attrs[pb.AttrFollowPaths]), &paths); err != nil {
		return nil
	}
	return paths
}

// loadedFiles is a reference to files of the user's machine, some of which were
// read ahead. It is only read from; BuildKit would refuse it as a result.
type loadedFiles struct {
	client.Reference
	going *sync.WaitGroup
	files map[string]*loadedFile // by path
}

type loadedFile struct {
	done chan struct{}
	dt   []byte
	stat *fstypes.Stat
	err  error // that of reading
	noSt error // that of the stat
}

// readLimit is as much of a file as one message holds: dockerui asks for no
// more, and refuses a larger file by its stat.
const readLimit = 16 << 20

// read starts to read a file and calls then, which may be nil, with what is in
// it.
func (l *loadedFiles) read(ctx context.Context, path string, then func(context.Context, []byte)) {
	f := &loadedFile{done: make(chan struct{})}
	l.files[path] = f
	l.going.Go(func() {
		f.dt, f.err = l.Reference.ReadFile(ctx, client.ReadRequest{Filename: path, Range: &client.FileRange{Length: readLimit + 1}})
		if f.err != nil {
			// Missing, or too large, which the stat tells.
			f.stat, f.noSt = l.Reference.StatFile(ctx, client.StatRequest{Path: path})
		} else {
			f.stat = &fstypes.Stat{Path: path, Size: int64(len(f.dt))}
		}
		close(f.done)
		if f.err == nil && then != nil {
			then(ctx, f.dt)
		}
	})
}

// look starts to read a file that may well be missing, and asks at the same time
// whether it is.
func (l *loadedFiles) look(ctx context.Context, path string) {
	f := &loadedFile{done: make(chan struct{})}
	l.files[path] = f
	l.going.Go(func() {
		defer close(f.done)
		var stat sync.WaitGroup
		stat.Go(func() { f.stat, f.noSt = l.Reference.StatFile(ctx, client.StatRequest{Path: path}) })
		f.dt, f.err = l.Reference.ReadFile(ctx, client.ReadRequest{Filename: path, Range: &client.FileRange{Length: readLimit + 1}})
		stat.Wait()
	})
}

// ReadFile returns what was read ahead.
func (l *loadedFiles) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	f := l.files[req.Filename]
	whole := req.Range == nil || req.Range.Offset == 0 && req.Range.Length > readLimit
	if f == nil || !whole {
		return l.Reference.ReadFile(ctx, req)
	}
	<-f.done
	return f.dt, f.err
}

// StatFile returns the size of what was read ahead.
func (l *loadedFiles) StatFile(ctx context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	f := l.files[req.Path]
	if f == nil {
		return l.Reference.StatFile(ctx, req)
	}
	<-f.done
	return f.stat, f.noSt
}
