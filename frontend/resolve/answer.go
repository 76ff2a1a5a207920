package resolve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/imageutil"

	"github.com/org/localfront/frontend/ledger"
)

// pinned answers a name that carries its digest, and shows the line here or the
// line there, wherever it comes from.
func (r *Resolver) pinned(ctx context.Context, q Query, n *name, ref reference.Canonical, here, there string) (Answer, error) {
	p, known := n.platform(ref.Digest(), q.Platform)
	if known || r.opts.Offline {
		a, err := r.fromContent(ctx, q, n, ref, p, here)
		if err == nil {
			return a, nil
		}
		if r.opts.Offline {
			return Answer{}, &OfflineError{Name: familiar(q.Name), Digest: ref.Digest(), Platform: platformKey(q.Platform)}
		}
	}
	a, err := r.builder.Ask(ctx, q.Name, q, there)
	if err != nil {
		return Answer{}, err
	}
	n.learn(a, q.Platform, r.now())
	return a, nil
}

// remembered answers a name with the digest that an earlier build resolved it
// to.
func (r *Resolver) remembered(ctx context.Context, q Query, n *name, img *ledger.Image) (Answer, error) {
	ref, err := withDigest(q.Name, img.Digest)
	if err != nil {
		return Answer{}, err
	}
	who := "from memory, " + r.old(img)
	p, known := n.platform(img.Digest, q.Platform)
	if known || r.opts.Offline {
		if a, err := r.fromContent(ctx, q, n, ref, p, r.line(q, who)); err == nil {
			n.answered = img.Digest
			r.warnOld(ctx, q, n, img)
			return a, nil
		}
	}
	if r.opts.Offline {
		return Answer{}, &OfflineError{Name: familiar(q.Name), Digest: img.Digest, Age: r.old(img), Platform: platformKey(q.Platform)}
	}
	a, err := r.byDigest(ctx, q, n, img, ref)
	if err == nil {
		r.warnOld(ctx, q, n, img)
	}
	return a, err
}

// byDigest fetches the image that is remembered but not on the builder.
func (r *Resolver) byDigest(ctx context.Context, q Query, n *name, img *ledger.Image, ref reference.Canonical) (Answer, error) {
	a, err := r.builder.Ask(ctx, ref, q, r.line(q, "from registry, by the digest remembered "+r.ago(img)))
	if err == nil {
		if a.Ref != ref.String() {
			return a, nil // converted by a policy
		}
		n.learn(a, q.Platform, img.Resolved)
		n.answered = img.Digest
		return a, nil
	}
	if ctx.Err() != nil {
		return Answer{}, err
	}
	// What the registry lacks is told by what it has: errors come over the
	// gateway without their type.
	if _, known := n.platform(img.Digest, q.Platform); !known && r.reachable(ctx, q, n, ref) {
		// The remembered index has no entry for this platform. The name may
		// have moved on to one that has.
		return r.ask(ctx, q, n)
	}
	gone := &GoneError{Name: familiar(q.Name), Digest: img.Digest, Age: r.ago(img), Cause: err}
	now, err := r.builder.Ask(ctx, q.Name, q, r.line(q, "from registry, to see what it is by now"))
	if err == nil && now.Digest == img.Digest {
		return r.byName(q, n, now)
	}
	gone.Deleted = err == nil
	return Answer{}, gone
}

// reachable reports whether the remembered image can still be had for a
// platform that it is known to have, which says that it still exists.
func (r *Resolver) reachable(ctx context.Context, q Query, n *name, ref reference.Canonical) bool {
	for _, p := range n.otherPlatforms(q.Platform) {
		other := q
		other.Platform = p
		line := r.line(q, "from memory, for "+platformKey(p))
		if _, err := r.builder.Metadata(ctx, ref, other, line); err == nil {
			return true
		}
		if _, err := r.builder.Ask(ctx, ref, other, line); err == nil {
			return true
		}
	}
	return false
}

// patience is how long the engine may take to answer a name that is remembered.
// A network that swallows packets would hold the build for half a minute.
const patience = 5 * time.Second

// askFirst asks the engine although the name is remembered, and falls back to
// memory where it cannot answer (HTTP's stale-if-error, RFC 5861).
func (r *Resolver) askFirst(ctx context.Context, q Query, n *name, img *ledger.Image) (Answer, error) {
	if n.silent {
		return r.remembered(ctx, q, n, img)
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := r.ask(short, q, n)
	if err == nil || ctx.Err() != nil {
		return a, err
	}
	n.silent = true
	a, stale := r.remembered(ctx, q, n, img)
	if stale != nil {
		return Answer{}, err
	}
	if r.opts.MaxAge > 0 && r.age(img) > r.opts.MaxAge {
		n.warn.Do(func() {
			r.builder.Warn(ctx, fmt.Sprintf("%s: the registry could not answer, so the digest resolved %s is used although max-age is %s: %v",
				familiar(q.Name), r.ago(img), human(r.opts.MaxAge), err))
		})
	}
	return a, nil
}

// asAsked answers for one platform when the engine has just answered for
// another. It is asked for the name again, since provenance tells platforms
// apart by that; should the name have moved in between, the first answer counts.
func (r *Resolver) asAsked(ctx context.Context, q Query, n *name, img *ledger.Image) (Answer, error) {
	ref, err := withDigest(q.Name, img.Digest)
	if err != nil {
		return Answer{}, err
	}
	a, err := r.builder.Ask(ctx, q.Name, q, r.line(q, whoIsAsked(q)))
	if err == nil && a.Digest != img.Digest {
		a, err = r.builder.Ask(ctx, ref, q, r.line(q, "from registry, by its digest"))
	}
	if err != nil {
		return Answer{}, err
	}
	n.learn(a, q.Platform, img.Resolved)
	a.Ref = ref.String()
	return a, nil
}

// ask resolves the name through the engine and learns the answer.
func (r *Resolver) ask(ctx context.Context, q Query, n *name) (Answer, error) {
	a, err := r.builder.Ask(ctx, q.Name, q, r.line(q, whoIsAsked(q)))
	if err != nil {
		return Answer{}, n.unknown(ctx, q, err)
	}
	return r.byName(q, n, a)
}

// unknown returns the error for a name that the engine could not answer and of
// which nothing else is known either.
func (n *name) unknown(ctx context.Context, q Query, err error) error {
	var other *imageutil.ResolveToNonImageError // not an error but an answer
	if ctx.Err() != nil || n.image() != nil || errors.As(err, &other) {
		return err
	}
	return &UnknownError{Name: familiar(q.Name), Short: Short(Key(q.Name)), Cause: err}
}

// whoIsAsked says who answers a name that the engine is asked for.
func whoIsAsked(q Query) string {
	if q.Mode == Local {
		return "from image store or registry"
	}
	return "from registry"
}

// byName takes what the engine answered for a name into what is learned of it.
// From here on the name goes with its digest, so that nobody resolves it again.
func (r *Resolver) byName(q Query, n *name, a Answer) (Answer, error) {
	if a.Ref != q.Name.String() || a.Digest == "" {
		return a, nil // converted by a policy, or known to an image store only
	}
	ref, err := withDigest(q.Name, a.Digest)
	if err != nil {
		return Answer{}, err
	}
	if n.answered != "" && n.answered != a.Digest {
		return Answer{}, &MixedError{Name: familiar(q.Name), Remembered: n.answered, Now: a.Digest, Platform: platformKey(q.Platform)}
	}
	n.learn(a, q.Platform, r.now())
	n.asked, n.answered = true, a.Digest
	a.Ref = ref.String()
	return a, nil
}

// fromContent answers from what the builder holds, without any network. Where
// layers matter it looks for those as well that an earlier build has seen
// here: at the same time if their number is known, and again after the config
// if that names another number.
// Looking for layers that may never have been pulled is left alone, since a
// failure can reach a build that is pulling them at this very moment (BuildKit
// makes lazy layers real once for all that wait, cache/refs.go). Offline there
// is no other way to know.
func (r *Resolver) fromContent(ctx context.Context, q Query, n *name, ref reference.Canonical, p ledger.Platform, line string) (Answer, error) {
	look := r.opts.Layers && (p.Content == ledger.Here || r.opts.Offline)
	var wg sync.WaitGroup
	if look && p.Layers > 0 {
		wg.Go(func() { n.found(ref.Digest(), q.Platform, r.builder.Holds(ctx, ref, q.Platform, p.Layers)) })
	}
	config, err := r.builder.Metadata(ctx, ref, q, line)
	wg.Wait()
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Ref: ref.String(), Digest: ref.Digest(), Config: config}
	if layers := layerCount(config); look && p.Layers != layers {
		n.counted(ref.Digest(), q.Platform, layers)
		n.found(ref.Digest(), q.Platform, layers > 0 && r.builder.Holds(ctx, ref, q.Platform, layers))
	}
	return a, nil
}

func (r *Resolver) warnOld(ctx context.Context, q Query, n *name, img *ledger.Image) {
	if r.age(img) < warnAge {
		return
	}
	n.warn.Do(func() {
		r.builder.Warn(ctx, fmt.Sprintf("%s was resolved %s: build with --pull to ask the registry again", familiar(q.Name), r.ago(img)))
	})
}

// old and ago say how long ago a name was resolved.
func (r *Resolver) old(img *ledger.Image) string {
	if ahead(r.now(), img) {
		return "dated in the future"
	}
	return human(r.age(img)) + " old"
}

func (r *Resolver) ago(img *ledger.Image) string {
	if ahead(r.now(), img) {
		return "at a time that is still to come"
	}
	return human(r.age(img)) + " ago"
}
