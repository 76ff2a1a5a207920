package resolve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/lockfile"
)

// Lock returns the Dockerfile.lock of this build, nil where there is none. It
// may take until the file has been read.
type Lock func(ctx context.Context) (*lockfile.File, error)

// locked answers a name that the lock pins, with ok false where this is not the
// lock's to answer. The name is answered as if the Dockerfile carried the
// digest, so that nothing this builder remembers of the name has a say, and
// nothing of the lock is remembered as what the name means.
func (r *Resolver) locked(ctx context.Context, q Query) (_ Answer, ok bool, _ error) {
	ref, pinned, err := r.pin(ctx, q.Name)
	switch {
	case err != nil:
		return Answer{}, true, err
	case pinned:
	case r.opts.Locked && !carriesDigest(q.Name) && !IsLocal(q.Name):
		return Answer{}, true, &NotLockedError{Name: familiar(q.Name)}
	default:
		return Answer{}, false, nil
	}
	lock, err := r.opts.Lock(ctx)
	if err != nil {
		return Answer{}, true, err
	}
	a, err := r.asPinned(ctx, q, ref, lock.Name)
	if err == nil && a.Digest != ref.Digest() {
		err = &PinnedPolicyError{Name: familiar(q.Name), Lock: lock.Name, Locked: ref.Digest(), Now: a.Digest}
	}
	return a, true, err
}

// pin returns a name with the digest that the lock pins it to.
func (r *Resolver) pin(ctx context.Context, named reference.Named) (_ reference.Canonical, ok bool, _ error) {
	if r.opts.Lock == nil || carriesDigest(named) {
		return nil, false, nil
	}
	lock, err := r.opts.Lock(ctx)
	if err != nil {
		return nil, false, err
	}
	e, ok := lock.Get(lockfile.Key{Kind: lockfile.Image, Name: named.String()})
	if !ok {
		return nil, false, nil
	}
	ref, err := withDigest(named, digest.Digest(e.Value))
	return ref, err == nil, err
}

func carriesDigest(named reference.Named) bool {
	_, ok := named.(reference.Canonical)
	return ok
}

// asPinned answers q by the digest that a lock has for it.
func (r *Resolver) asPinned(ctx context.Context, q Query, ref reference.Canonical, lock string) (Answer, error) {
	n := r.name(ref)
	n.turn.Lock()
	defer n.turn.Unlock()
	r.passOver(ctx, q.Name, lock)
	if n.look(ctx, r, Key(ref), q.Name).governed {
		// A policy that denies the tag, or makes another image of it, is a word
		// of the user's too. The engine tells which.
		if r.opts.Offline {
			return Answer{}, &PolicyError{Name: familiar(q.Name)}
		}
		return r.builder.Ask(ctx, q.Name, q, r.line(q, "from registry, under a source policy"))
	}
	line := r.line(q, "from "+lock)
	q.Name = ref
	there := line + ", from registry"
	if r.opts.Registry {
		there = line // it was not looked up whether it is here
	}
	a, err := r.pinned(ctx, q, n, ref, line, there)
	if err == nil || r.opts.Offline || ctx.Err() != nil {
		return a, err
	}
	return Answer{}, &PinnedError{Name: familiar(ref), Lock: lock, Cause: err}
}

// passOver warns where a build of this builder was given a name that the lock
// pins. Nobody waits for it but the end of the build.
func (r *Resolver) passOver(ctx context.Context, named reference.Named, lock string) {
	key := Key(named)
	if r.opts.Aside == nil || slices.Contains(r.opts.Own, key) {
		return
	}
	r.mu.Lock()
	again := r.passed[key]
	r.passed[key] = true
	r.mu.Unlock()
	if again {
		return
	}
	ctx = context.WithoutCancel(ctx)
	r.opts.Aside(func() {
		if result := r.results.Result(ctx, key); result != nil {
			r.builder.Warn(ctx, fmt.Sprintf("%s: %s pins it, so what was built here under that name %s ago is passed over: to use it, take the entry out of %s",
				familiar(named), lock, human(max(0, r.now().Sub(result.Built))), lock))
		}
	})
}

// NotLockedError says that a name has no entry in the lock, while `locked`
// demands one.
type NotLockedError struct {
	// Name is the name as people write it.
	Name string
}

// Error names what is missing and the command that adds it.
func (e *NotLockedError) Error() string {
	return fmt.Sprintf("locked is set and Dockerfile.lock does not pin %s: build with LOCALFRONT_LOCK=add", e.Name)
}

// PinnedError says that an image cannot be had by the digest in the lock.
type PinnedError struct {
	// Name is the name with the digest.
	Name string
	// Lock is the name of the lock.
	Lock string
	// Cause is what the engine answered.
	Cause error
}

// Error names the pin and says how to replace it.
func (e *PinnedError) Error() string {
	name, _, _ := strings.Cut(e.Name, "@")
	return fmt.Sprintf("%s, as %s pins it, cannot be had: %v: if it is gone for good, build with LOCALFRONT_LOCK=%s to pin what the name means now",
		e.Name, e.Lock, e.Cause, name)
}

// PinnedPolicyError says that a source policy puts another image in the place
// of one that the lock pins.
type PinnedPolicyError struct {
	// Name is the name as people write it.
	Name string
	// Lock is the name of the lock.
	Lock string
	// Locked is what it pins, Now what the policy made of it.
	Locked, Now digest.Digest
}

// Error names both images and says what to change.
func (e *PinnedPolicyError) Error() string {
	return fmt.Sprintf("a source policy of this build makes %s of %s, which %s pins to %s: change the policy, or build with LOCALFRONT_LOCK=%s under it",
		e.Now, e.Name, e.Lock, e.Locked, e.Name)
}
