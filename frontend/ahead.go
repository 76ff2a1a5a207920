package frontend

import (
	"context"
	"encoding/json"
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
type ahead struct {
	client client.Client
	opts   map[string]string // as BuildKit gave them: dockerui changes those of bopts
	// expect is called with the Dockerfile.
	expect func(ctx context.Context, dockerfile []byte)

	going sync.WaitGroup // whatever has been started
}

// solve solves, and reads ahead if the request loads some files.
func (a *ahead) solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
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
		files.read(ctx, paths[0], a.expect)
		files.look(ctx, paths[1])
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
