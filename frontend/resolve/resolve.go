// Package resolve decides who answers an image name: the digest it carries, what
// a build of this builder was named, what this builder remembers, or the engine (its image store or the
// registry). It is policy only: whatever must be asked of the builder goes
// through the Builder and Memory interfaces, and what to do with the answer is
// the caller's.
//
// The order is that of docs/how-it-works.md. It never guesses: a name whose
// content cannot be had is an error that says what is known of it.
package resolve

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/ledger"
)

// warnAge is the age of a memory from which a build warns (the design's 30
// days).
const warnAge = 30 * 24 * time.Hour

// refreshAge is the age from which a memory that the registry has just
// confirmed is written again, so that its age stays true without a write in
// every build with --pull.
const refreshAge = 10 * time.Minute

// Mode is how a name may be resolved, the value of image-resolve-mode.
type Mode string

const (
	// Default asks memory first.
	Default Mode = "default"
	// Pull skips memory and asks the registry (docker build --pull).
	Pull Mode = "pull"
	// Local is what the docker driver sends: the engine prefers its own image
	// store. It is asked first, since a docker build -t or docker pull may have
	// put another image under the name there, and only the engine can tell;
	// memory stands in where it cannot answer.
	Local Mode = "local"
)

// Query is one name to resolve.
type Query struct {
	// Name is normalised and carries a tag, a digest or both.
	Name reference.Named
	// Platform is normalised.
	Platform ocispecs.Platform
	Mode     Mode
	// Step is what precedes the name in the progress line, such as
	// "[linux/arm64 internal]".
	Step string
}

// Answer is what a name stands for.
type Answer struct {
	// Ref is the reference to use from here on. It differs from the name asked
	// for where a source policy converted it.
	Ref string
	// Digest is that of the index or the manifest. It is empty for an image
	// that exists only in an engine's image store.
	Digest digest.Digest
	// Config is the image config for the platform asked for, as JSON.
	Config []byte
	// Own is true for a named result of this builder, which no lock pins.
	Own bool
}

// Builder is what can be asked of the builder.
type Builder interface {
	// Metadata returns the image config if manifest and config are on the
	// builder, and an error otherwise. It never uses the network. The line is
	// shown in the progress.
	Metadata(ctx context.Context, ref reference.Canonical, q Query, line string) ([]byte, error)
	// Holds reports whether the layers are on the builder. It never uses the
	// network.
	Holds(ctx context.Context, ref reference.Canonical, p ocispecs.Platform, layers int) bool
	// Ask resolves name through the engine's image store or the registry.
	Ask(ctx context.Context, name reference.Named, q Query, line string) (Answer, error)
	// Show shows a line in the progress, of something that took no time.
	Show(ctx context.Context, line string)
	// Warn shows a warning of this build.
	Warn(ctx context.Context, msg string)
}

// Memory is what the builder remembers of names. Reading never fails a build:
// what cannot be read is absent.
type Memory interface {
	// Read returns what is remembered under key of a name. It is governed if a
	// source policy of this build denies the name or converts it: then only
	// the engine can tell what it stands for.
	Read(ctx context.Context, key string, named reference.Named) (e ledger.Entry, governed bool)
	// Governed reports that alone.
	Governed(ctx context.Context, named reference.Named) bool
}

// Options are what the user asked for.
type Options struct {
	// Offline forbids step 5, the registry.
	Offline bool
	// MaxAge is the age from which memory asks the registry first. Zero means
	// never.
	MaxAge time.Duration
	// Own are the keys of the names that this build gives its result. It never
	// takes one of them for an image itself.
	Own []string
	// Layers tells whether builds follow, so that it matters whether an
	// image's layers are on the builder. Lint and the like read only configs.
	Layers bool
	// Registry is true where images stay with their registry, whatever of them
	// is on the builder.
	Registry bool
	// Lock is the lock of this build, nil where none is to be asked.
	Lock Lock
	// Aside runs what nobody waits for but the end of the build. Where it is
	// nil, such things are left alone.
	Aside func(f func())
	// Locked demands that the lock pins every name but those of localhost/.
	Locked bool
}

// Resolver resolves the names of one build and gathers what is learned. It is
// safe for concurrent use.
type Resolver struct {
	builder Builder
	memory  Memory
	results Results
	opts    Options
	now     func() time.Time

	mu     sync.Mutex
	names  map[string]*name
	used   map[digest.Digest]Used // by the digest that stands for each
	passed map[string]bool        // keys whose named result is passed over, if there is one
}

// New returns a Resolver for one build. now is the clock that ages are
// measured by.
func New(b Builder, m Memory, results Results, opts Options, now func() time.Time) *Resolver {
	return &Resolver{
		builder: b, memory: m, results: results, opts: opts, now: now,
		names: map[string]*name{}, used: map[digest.Digest]Used{}, passed: map[string]bool{},
	}
}

// Resolve answers one name, or says why it cannot. Errors of the engine come
// through as they are where nothing was remembered, so that the user sees what
// the official frontend would show.
func (r *Resolver) Resolve(ctx context.Context, q Query) (Answer, error) {
	if a, ok, err := r.locked(ctx, q); ok {
		return a, err
	}
	n := r.name(q.Name)
	// One platform at a time, so that what one learns counts for all.
	n.turn.Lock()
	defer n.turn.Unlock()
	l := n.look(ctx, r, Key(q.Name), q.Name)
	if l.governed {
		if r.opts.Offline {
			return Answer{}, &PolicyError{Name: familiar(q.Name)}
		}
		return r.builder.Ask(ctx, q.Name, q, r.line(q, "from registry, under a source policy"))
	}
	if ref, ok := q.Name.(reference.Canonical); ok {
		const who = "pinned by digest"
		return r.pinned(ctx, q, n, ref, r.line(q, who), r.line(q, who+", from registry"))
	}
	if a, ok, err := r.built(ctx, q, l.result); ok || err != nil {
		return a, err
	}
	img := n.image()
	switch {
	case r.opts.Offline && img == nil:
		return Answer{}, &OfflineError{Name: familiar(q.Name)}
	case r.opts.Offline:
		return r.remembered(ctx, q, n, img)
	case n.asked:
		// Another platform of this build has just asked: one answer for all.
		return r.asAsked(ctx, q, n, img)
	case img == nil || q.Mode == Pull:
		return r.ask(ctx, q, n)
	case q.Mode == Local, r.opts.MaxAge > 0 && r.age(img) > r.opts.MaxAge:
		return r.askFirst(ctx, q, n, img)
	default:
		return r.remembered(ctx, q, n, img)
	}
}

// Key returns the key under which what is known of a name is kept. A digest
// says all, so a tag beside it is dropped.
func Key(named reference.Named) string {
	if c, ok := named.(reference.Canonical); ok {
		return named.Name() + "@" + c.Digest().String()
	}
	return named.String()
}

// familiar returns a name as people write it.
func familiar(n reference.Named) string { return reference.FamiliarString(n) }

// line returns the progress line that says who answered.
func (r *Resolver) line(q Query, who string) string {
	return fmt.Sprintf("%s %s %s", q.Step, familiar(q.Name), who)
}

// age returns how old a memory is. One that is dated in the future is of
// unknown age, since a clock was set back or somebody wrote what is not true,
// and counts as older than anything.
func (r *Resolver) age(img *ledger.Image) time.Duration {
	if ahead(r.now(), img) {
		return math.MaxInt64
	}
	return max(0, r.now().Sub(img.Resolved))
}

// ahead reports whether a memory is dated in the future, by more than a clock
// that is being corrected may explain.
func ahead(now time.Time, img *ledger.Image) bool { return img.Resolved.Sub(now) >= refreshAge }

// platformKey is how a platform is written in an entry.
func platformKey(p ocispecs.Platform) string { return platforms.FormatAll(p) }

// withDigest returns named with d in place of any digest it carries.
func withDigest(named reference.Named, d digest.Digest) (reference.Canonical, error) {
	if _, ok := named.(reference.Canonical); ok {
		named = reference.TrimNamed(named)
	}
	c, err := reference.WithDigest(named, d)
	if err != nil {
		return nil, fmt.Errorf("%s with digest %q: %w", familiar(named), d, err)
	}
	return c, nil
}
