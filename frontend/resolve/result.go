package resolve

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/ledger"
)

// Results are what builds of this builder were named.
type Results interface {
	// Result returns what was last built under a key, nil if nothing was.
	Result(ctx context.Context, key string) *ledger.Result
	// Names lists the keys of all results, sorted.
	Names(ctx context.Context) []string
}

// localDomain is the domain of names that only builds of this builder have.
const localDomain = "localhost"

// IsLocal reports whether a name must never be asked of a registry.
func IsLocal(named reference.Named) bool { return reference.Domain(named) == localDomain }

// Used is a named result that a build has taken for an image.
type Used struct {
	// Name is its name as people write it.
	Name string
	// Key is what it is kept under.
	Key string
	// Result is all of it.
	Result *ledger.Result
	// Build is that for the platform asked for.
	Build ledger.Build
}

// built answers a name with what a build of it gave, with ok false where there
// is none and others are to be asked.
func (r *Resolver) built(ctx context.Context, q Query, result *ledger.Result) (_ Answer, ok bool, _ error) {
	key := Key(q.Name)
	if slices.Contains(r.opts.Own, key) {
		if IsLocal(q.Name) {
			return Answer{}, false, &CycleError{Path: []string{familiar(q.Name), familiar(q.Name)}}
		}
		return Answer{}, false, nil
	}
	if result == nil {
		if IsLocal(q.Name) {
			return Answer{}, false, &NotBuiltError{Name: familiar(q.Name), Near: near(key, r.results.Names(ctx))}
		}
		return Answer{}, false, nil
	}
	for _, own := range r.opts.Own {
		if path := result.Path(key, own); path != nil {
			return Answer{}, false, &CycleError{Path: short(append([]string{own}, path...))}
		}
	}
	p, b, ok := buildFor(result, q.Platform)
	if !ok {
		return Answer{}, false, &PlatformError{
			Name: familiar(q.Name), Platform: platformKey(q.Platform), Built: slices.Sorted(maps.Keys(result.Platforms)),
		}
	}
	marker := digest.FromString(strings.Join([]string{"named result", key, p, digest.FromBytes(b.Definition).String(), string(b.Config)}, "\n"))
	ref, err := withDigest(q.Name, marker)
	if err != nil {
		return Answer{}, false, err
	}
	r.mu.Lock()
	r.used[marker] = Used{Name: Short(key), Key: key, Result: result, Build: b}
	r.mu.Unlock()
	r.builder.Show(ctx, r.line(q, "named result, built "+human(max(0, r.now().Sub(result.Built)))+" ago"))
	return Answer{Ref: ref.String(), Digest: marker, Config: b.Config, Own: true}, true, nil
}

// buildFor returns the build for a platform: that very one, or the best of those
// that run on it and differ in the variant only.
func buildFor(r *ledger.Result, p ocispecs.Platform) (string, ledger.Build, bool) {
	key := platformKey(p)
	if b, ok := r.Platforms[key]; ok {
		return key, b, true
	}
	match := platforms.Only(p)
	var all []ocispecs.Platform
	for _, k := range slices.Sorted(maps.Keys(r.Platforms)) {
		if o, err := platforms.Parse(k); err == nil && o.Architecture == p.Architecture && match.Match(o) {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return "", ledger.Build{}, false
	}
	slices.SortStableFunc(all, func(a, b ocispecs.Platform) int {
		if match.Less(a, b) {
			return -1
		}
		return 1
	})
	key = platformKey(all[0])
	return key, r.Platforms[key], true
}

// Result returns the named result that an answer's digest stands for.
func (r *Resolver) Result(marker digest.Digest) (Used, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, ok := r.used[marker]
	return u, ok
}

// Used returns the named results that the build has taken so far.
func (r *Resolver) Used() []Used {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Used
	for _, d := range slices.Sorted(maps.Keys(r.used)) {
		all = append(all, r.used[d])
	}
	return all
}

// LookAgain looks for the layers of an image that a named result is made from,
// which were here when it was recorded.
func (r *Resolver) LookAgain(ctx context.Context, ref reference.Canonical, p ocispecs.Platform, layers int) {
	r.name(ref).found(ref.Digest(), p, r.builder.Holds(ctx, ref, p, layers))
}

// Layers returns the number of layers of an image that this build has found on
// the builder.
func (r *Resolver) Layers(ref reference.Canonical, p ocispecs.Platform) (int, bool) {
	if !r.Held(ref, p) {
		return 0, false
	}
	for _, n := range r.all() {
		if known, ok := n.platform(ref.Digest(), p); ok && known.Layers > 0 {
			return known.Layers, true
		}
	}
	return 0, false
}

// Short returns the name that stands for a key as the progress shows it, which
// is as people write it: foo for docker.io/library/foo:latest.
func Short(key string) string {
	named, err := reference.ParseNormalizedNamed(key)
	if err != nil {
		return key
	}
	return strings.TrimSuffix(familiar(named), ":latest")
}

func short(keys []string) []string {
	var all []string
	for _, k := range keys {
		all = append(all, Short(k))
	}
	return all
}
