package resolve

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/ledger"
)

// name is what one build knows of one name: the entry it read, once, and what
// it has learned since.
type name struct {
	mu    sync.Mutex
	looks map[string]*look // by the name that a policy may govern
	read  *ledger.Entry
	now   ledger.Entry
	held  map[string]bool // by digest and platform
	warn  sync.Once

	turn     sync.Mutex    // held while the name is resolved; guards what follows
	asked    bool          // the engine has answered the name in this build
	silent   bool          // the engine was asked and could not answer
	answered digest.Digest // what the name has stood for in this build so far
}

// look is one look at what is remembered under a name.
type look struct {
	once     sync.Once
	governed bool
	result   *ledger.Result // nil where there is none
}

// name returns the record of one name in this build.
func (r *Resolver) name(named reference.Named) *name {
	key := Key(named)
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.names[key]
	if !ok {
		n = &name{held: map[string]bool{}, looks: map[string]*look{}}
		r.names[key] = n
	}
	return n
}

// look reads what is known of a name, once, and returns what it found: what is
// remembered under key, whether a source policy governs the name, and what it was
// built as, all at the same time. A digest was never built, and a build does not
// look for its own names. What is remembered of a digest says where its content
// is: where that does not matter, only the policy is asked, which never starts a
// container.
func (n *name) look(ctx context.Context, r *Resolver, key string, named reference.Named) *look {
	n.mu.Lock()
	l, ok := n.looks[named.String()]
	if !ok {
		l = &look{}
		n.looks[named.String()] = l
	}
	n.mu.Unlock()
	l.once.Do(func() {
		// Another name that fails shall not end a read half-way: what it runs
		// would be seen to fail.
		ctx := context.WithoutCancel(ctx)
		pinned := key != Key(named)
		if pinned && r.opts.Registry {
			l.governed = r.memory.Governed(ctx, named)
			return
		}
		var wg sync.WaitGroup
		if !pinned && !carriesDigest(named) && !slices.Contains(r.opts.Own, Key(named)) {
			wg.Go(func() { l.result = r.results.Result(ctx, Key(named)) })
		}
		e, governed := r.memory.Read(ctx, key, named)
		wg.Wait()
		l.governed = governed
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.read == nil {
			n.read, n.now = &e, e.Clone()
		}
	})
	return l
}

// image returns what the name is known to stand for, nil if nothing is known.
func (n *name) image() *ledger.Image {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now.Clone().Image
}

// platform returns what is known of one platform of the image d.
func (n *name) platform(d digest.Digest, p ocispecs.Platform) (ledger.Platform, bool) {
	img := n.image()
	if img == nil || img.Digest != d {
		return ledger.Platform{}, false
	}
	known, ok := img.Platforms[platformKey(p)]
	return known, ok
}

// otherPlatforms returns the platforms that the image is known to have, save p,
// in a fixed order.
func (n *name) otherPlatforms(p ocispecs.Platform) []ocispecs.Platform {
	img := n.image()
	if img == nil {
		return nil
	}
	var others []ocispecs.Platform
	for _, key := range slices.Sorted(maps.Keys(img.Platforms)) {
		if o, err := platforms.Parse(key); err == nil && key != platformKey(p) {
			others = append(others, o)
		}
	}
	return others
}

// learn takes an answer for one platform, resolved at the given time. An
// answer with another digest replaces all that was known.
func (n *name) learn(a Answer, p ocispecs.Platform, resolved time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	img := n.now.Image
	if img == nil || img.Digest != a.Digest {
		img = &ledger.Image{Digest: a.Digest, Resolved: resolved.UTC()}
		n.now.Image = img
	}
	if resolved.Sub(img.Resolved) >= refreshAge || ahead(resolved, img) {
		img.Resolved = resolved.UTC()
	}
	_, known := img.Platforms[platformKey(p)]
	setLayers(img, p, layerCount(a.Config))
	if !known { // what is known of a digest stays true: it is not worth a write
		now := img.Platforms[platformKey(p)]
		now.NoTriggers = !hasTriggers(a.Config)
		img.Platforms[platformKey(p)] = now
	}
}

// counted takes note of the number of layers of d, should that be the image
// that is remembered.
func (n *name) counted(d digest.Digest, p ocispecs.Platform, layers int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if img := n.now.Image; img != nil && img.Digest == d {
		setLayers(img, p, layers)
	}
}

func setLayers(img *ledger.Image, p ocispecs.Platform, layers int) {
	if img.Platforms == nil {
		img.Platforms = map[string]ledger.Platform{}
	}
	known := img.Platforms[platformKey(p)]
	known.Layers = layers
	img.Platforms[platformKey(p)] = known
}

// found takes note of whether the layers of d are on the builder.
func (n *name) found(d digest.Digest, p ocispecs.Platform, here bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[d.String()+" "+platformKey(p)] = here
	img := n.now.Image
	if img == nil || img.Digest != d {
		return
	}
	known, ok := img.Platforms[platformKey(p)]
	if !ok {
		return
	}
	known.Content = ledger.Elsewhere
	if here {
		known.Content = ledger.Here
	}
	img.Platforms[platformKey(p)] = known
}

// Held reports whether this build has found the layers of ref on the builder.
func (r *Resolver) Held(ref reference.Canonical, p ocispecs.Platform) bool {
	key := ref.Digest().String() + " " + platformKey(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.names {
		n.mu.Lock()
		here := n.held[key]
		n.mu.Unlock()
		if here {
			return true
		}
	}
	return false
}

// Knows reports whether this build has resolved a name to ref.
func (r *Resolver) Knows(ref reference.Canonical, p ocispecs.Platform) bool {
	return slices.ContainsFunc(r.all(), func(n *name) bool {
		_, ok := n.platform(ref.Digest(), p)
		return ok
	})
}

// Unseen reports whether nobody has looked yet whether the layers of ref are
// on the builder.
func (r *Resolver) Unseen(ref reference.Canonical, p ocispecs.Platform) bool {
	return slices.ContainsFunc(r.all(), func(n *name) bool {
		known, ok := n.platform(ref.Digest(), p)
		return ok && known.Content == ledger.Unknown && known.Layers > 0
	})
}

// LookForLayers looks for the layers of an image once a build has run steps on
// it, so that the next build knows that they are here.
func (r *Resolver) LookForLayers(ctx context.Context, ref reference.Canonical, p ocispecs.Platform) {
	for _, n := range r.all() {
		if known, ok := n.platform(ref.Digest(), p); ok && known.Content != ledger.Here && known.Layers > 0 {
			n.found(ref.Digest(), p, r.builder.Holds(ctx, ref, p, known.Layers))
		}
	}
}

func (r *Resolver) all() []*name {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.names))
}

// Learned returns, by key, the entries that differ from what was read.
func (r *Resolver) Learned() map[string]ledger.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]ledger.Entry{}
	for key, n := range r.names {
		n.mu.Lock()
		if n.read != nil && !reflect.DeepEqual(*n.read, n.now) {
			out[key] = n.now.Clone()
		}
		n.mu.Unlock()
	}
	return out
}

// layerCount returns the number of layers that an image config names, 0 where
// it cannot be read.
func layerCount(config []byte) int {
	var img struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return 0
	}
	return len(img.RootFS.DiffIDs)
}

// hasTriggers reports whether an image config may have ONBUILD triggers.
func hasTriggers(config []byte) bool {
	var img struct {
		Config struct{ OnBuild []string }
	}
	return json.Unmarshal(config, &img) != nil || len(img.Config.OnBuild) > 0
}

// Expect reads what is remembered of a name that is going to be resolved.
func (r *Resolver) Expect(ctx context.Context, named reference.Named) {
	pin, pinned, err := r.pin(ctx, named)
	switch {
	case err != nil:
	case pinned:
		if lock, err := r.opts.Lock(ctx); err == nil {
			r.passOver(ctx, named, lock.Name)
		}
		r.name(pin).look(ctx, r, Key(pin), named)
	default:
		r.name(named).look(ctx, r, Key(named), named)
	}
}

// Remembers reports whether a name that was expected will be answered from
// memory, with nobody else asked before, by an image that names no others.
func (r *Resolver) Remembers(ctx context.Context, named reference.Named, p ocispecs.Platform) bool {
	if _, pinned, err := r.pin(ctx, named); err != nil || pinned || r.opts.Locked || r.opts.MaxAge > 0 {
		return false
	}
	n := r.name(named)
	img := n.image()
	if l := n.look(ctx, r, Key(named), named); l.governed || l.result != nil || img == nil {
		return false
	}
	if c, ok := named.(reference.Canonical); ok && c.Digest() != img.Digest {
		return false
	}
	known, ok := n.platform(img.Digest, p)
	return ok && known.NoTriggers
}
