package frontend

import (
	"context"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/frontend/resolve"
)

// keyOf returns what a remote source is called in a lock.
func keyOf(r graph.Remote) (lockfile.Key, error) {
	if !r.Git {
		return lockfile.NewKey(lockfile.HTTP, r.Address)
	}
	return lockfile.NewKey(lockfile.Git, r.Address+"#"+r.Ref)
}

// pinOf returns the function that looks a remote source up in the lock.
func (c *decorated) pinOf(ctx context.Context) (func(graph.Remote) (string, error), error) {
	if c.opts.lock != "" {
		// A build that writes the lock takes nothing by it, and may mend it.
		return func(graph.Remote) (string, error) { return "", nil }, nil
	}
	f, err := c.readLock(ctx)
	if err != nil {
		return nil, err
	}
	return func(r graph.Remote) (string, error) {
		if c.lock.isMain(r) {
			return "", nil
		}
		k, err := keyOf(r)
		if err != nil {
			return "", nil //nolint:nilerr // what has no name in a lock is in none, and BuildKit's to refuse
		}
		if e, ok := f.Get(k); ok {
			return e.Value, nil
		}
		if c.opts.locked && !c.fromInputs(r) {
			return "", &resolve.NotLockedError{Name: k.Name}
		}
		return "", nil
	}, nil
}

// isMain reports whether r is the main context, or what the Dockerfile was
// loaded from.
func (l *lock) isMain(r graph.Remote) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.context[r.ID]
}

// pinRemotes returns def with the files and repositories that the lock pins held
// to that.
func (c *decorated) pinRemotes(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	pin, err := c.pinOf(ctx)
	if err != nil {
		return nil, err
	}
	return graph.Pin(def, pin)
}

// remoteMetadata answers for a file or repository as the lock pins it.
func (c *decorated) remoteMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	pin, err := c.pinOf(ctx)
	if err != nil {
		return nil, err
	}
	if op, err = graph.PinSource(op, pin); err != nil {
		return nil, err
	}
	return c.Client.ResolveSourceMetadata(ctx, op, opt)
}

// fromInputs reports whether r comes from another build, whose lock it is a
// matter of.
func (c *decorated) fromInputs(r graph.Remote) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inputs[r.ID]
}

// noteInputs takes note of the remote sources of an input.
func (c *decorated) noteInputs(def *pb.Definition) error {
	remotes, err := graph.Remotes(def)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range remotes {
		c.inputs[r.ID] = true
	}
	return err
}
