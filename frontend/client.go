package frontend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/resolve"
)

// imageScheme starts the identifier of an image source.
const imageScheme = srctypes.DockerImageScheme + "://"

// decorated is the gateway client that BuildKit's Dockerfile frontend runs on.
// It embeds the real one and overrides what names and definitions pass through.
type decorated struct {
	client.Client
	opts     options
	bopts    client.BuildOpts
	own      map[string]string // the LOCALFRONT_ build args
	source   string
	names    *resolve.Resolver
	builder  *builderQueries
	memory   *memory
	ahead    *ahead
	lock     *lock
	naming   *naming // nil for a build without names
	localize bool
	// forwarded is true once the build is another client's.
	forwarded bool

	mu     sync.Mutex
	wants  map[string]graph.Want  // what steps of named results want, by vertex
	images map[string]graph.Image // what the build's definitions take, by reference and platform
	inputs map[string]bool        // the remote sources of inputs, by ID
	given  bool                   // there are inputs
}

var _ client.Client = &decorated{}

// clock is the clock that ages are measured by.
func (c *decorated) clock() time.Time { return time.Now() }

// decorate returns a client for one build.
func decorate(c client.Client, opts options) *decorated {
	bopts := c.BuildOpts()
	d := &decorated{Client: c, opts: opts, source: bopts.Opts[keySource], own: map[string]string{}, images: map[string]graph.Image{}, wants: map[string]graph.Want{}, inputs: map[string]bool{}}
	given := bopts.Opts
	// dockerui changes the map, so everybody gets this one copy of it.
	bopts.Opts = maps.Clone(given)
	maps.DeleteFunc(bopts.Opts, func(k, v string) bool {
		own := strings.HasPrefix(k, ownPrefix)
		if own {
			d.own[k] = v
		}
		return own
	})
	if bopts.Opts == nil {
		bopts.Opts = map[string]string{}
	}
	d.bopts = bopts
	_, provenance := given[keyProvenance]
	_, subrequest := given[keyRequestID]
	stores := hasStores(bopts)
	// Provenance calls an image from a store by another name than one from a
	// registry, so where it is requested the image stays with the registry
	// unless that must not be reached.
	d.localize = stores && (!provenance || opts.offline)
	d.builder = &builderQueries{client: c, bopts: bopts, stores: stores, registryOnly: provenance && !opts.offline}
	d.memory = newMemory(c, d.builder, opts.scope)
	d.ahead = &ahead{client: c, opts: given, expect: d.expect, asked: map[string]bool{}}
	d.lock = newLock(d.bopts.Opts)
	d.names = resolve.New(d.builder, d.memory, d.memory, resolve.Options{
		Lock:     d.readLock,
		Aside:    d.ahead.going.Go,
		Locked:   opts.locked,
		Own:      keys(opts.names),
		Offline:  opts.offline,
		MaxAge:   opts.maxAge,
		Layers:   d.localize && !subrequest,
		Registry: d.builder.registryOnly,
	}, d.clock)
	return d
}

// BuildOpts returns the options without localfront's own build args. It is the
// same map each time.
func (c *decorated) BuildOpts() client.BuildOpts { return c.bopts }

// ResolveImageConfig answers an image name in the order of package resolve. A
// name in the store of the user's own session is the store's to answer.
func (c *decorated) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	q, ok := c.query(ref, opt)
	if !ok {
		return c.Client.ResolveImageConfig(ctx, ref, opt)
	}
	a, err := c.names.Resolve(ctx, q)
	if err != nil {
		return "", "", nil, err
	}
	return a.Ref, a.Digest, a.Config, nil
}

// query returns what is asked for, with ok false where it is not localfront's
// to answer.
func (c *decorated) query(ref string, opt sourceresolver.Opt) (resolve.Query, bool) {
	if opt.OCILayoutOpt != nil || len(opt.SourcePolicies) > 0 {
		return resolve.Query{}, false
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return resolve.Query{}, false
	}
	q := resolve.Query{Name: reference.TagNameOnly(named), Step: "[internal]", Platform: c.defaultPlatform()}
	if step, _, ok := strings.Cut(opt.LogName, " load metadata for "); ok {
		q.Step = step
	}
	if img := opt.ImageOpt; img != nil {
		q.Mode = resolveMode(img.ResolveMode, c.bopts.Workers)
		if img.Platform != nil {
			q.Platform = platforms.Normalize(*img.Platform)
		}
	}
	return q, true
}

// defaultPlatform is the platform that an image is taken for where none is
// named: the worker's own.
func (c *decorated) defaultPlatform() ocispecs.Platform {
	if w := c.bopts.Workers; len(w) > 0 && len(w[0].Platforms) > 0 {
		return platforms.Normalize(w[0].Platforms[0])
	}
	return platforms.Normalize(platforms.DefaultSpec())
}

// ResolveSourceMetadata answers for images as ResolveImageConfig does, and
// leaves all other sources to the builder.
func (c *decorated) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	ref, ok := strings.CutPrefix(op.GetIdentifier(), imageScheme)
	plain := opt.ImageOpt == nil || !opt.ImageOpt.AttestationChain && len(opt.ImageOpt.ResolveAttestations) == 0
	if opt.ImageOpt == nil && opt.OCILayoutOpt == nil && !ok {
		return c.remoteMetadata(ctx, op, opt)
	}
	if !ok || !plain {
		return c.Client.ResolveSourceMetadata(ctx, op, opt)
	}
	q, ok := c.query(ref, opt)
	if !ok {
		return c.Client.ResolveSourceMetadata(ctx, op, opt)
	}
	a, err := c.names.Resolve(ctx, q)
	if err != nil {
		return nil, err
	}
	op = op.CloneVT()
	op.Identifier = imageScheme + a.Ref
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: a.Digest, Config: a.Config}}, nil
}

// Solve solves a definition with every image that is on the builder taken from
// there.
func (c *decorated) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Frontend != "" {
		return c.forward(ctx, req)
	}
	if c.opts.offline {
		req.CacheImports = c.withoutRegistries(ctx, req.CacheImports)
	}
	if loads, err := c.lock.loads(req.Definition); err != nil {
		return nil, err
	} else if loads {
		return c.lock.load(ctx, c, req)
	}
	if req.Definition == nil {
		return c.Client.Solve(ctx, req)
	}
	settled, err := c.settle(ctx, req.Definition)
	if err != nil {
		return nil, err
	}
	if req.Definition, err = c.rewrite(ctx, settled); err != nil {
		return nil, err
	}
	if err := c.sawWants(req.Definition); err != nil {
		return nil, err
	}
	res, err := c.ahead.solve(ctx, req)
	c.naming.solved(res, settled)
	return res, err
}

// settle returns def as it can be recorded: with named results in the place of
// images and, if the build has a name, without the user's session.
func (c *decorated) settle(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	c.builder.sawVertex(def)
	def, err := c.pinRemotes(ctx, def)
	if err != nil {
		return nil, err
	}
	if def, err = c.pinNow(ctx, def); err != nil {
		return nil, err
	}
	if def, err = graph.Splice(def, c.result); err != nil {
		return nil, err
	}
	return c.naming.settle(ctx, def)
}

// result returns the named result that an image stands for, nil if it is an
// image.
func (c *decorated) result(img graph.Image) (*graph.Result, error) {
	ref, ok := img.Ref.(reference.Canonical)
	if !ok {
		return nil, nil
	}
	used, ok := c.names.Result(ref.Digest())
	if !ok {
		return nil, nil
	}
	def, err := graph.Unmarshal(used.Build.Definition)
	return &graph.Result{Name: used.Name, Definition: def}, err
}

// lookAgain looks for the layers of the images that named results of this build
// are made from, as far as they were here when those were built.
func (c *decorated) lookAgain(ctx context.Context, images []graph.Image) {
	if _, subrequest := c.bopts.Opts[keyRequestID]; subrequest || !c.localize {
		return
	}
	layers := map[string]int{}
	for _, u := range c.names.Used() {
		maps.Copy(layers, u.Result.Layers)
	}
	var wg sync.WaitGroup
	for _, img := range images {
		ref, ok := img.Ref.(reference.Canonical)
		if n := layers[imageKey(img)]; ok && n > 0 && !c.names.Held(ref, img.Platform) {
			wg.Go(func() { c.names.LookAgain(ctx, ref, img.Platform, n) })
		}
	}
	wg.Wait()
}

// rewrite takes note of the images of def and returns it with those that are
// on the builder taken from there.
func (c *decorated) rewrite(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	images, err := graph.Images(def)
	if err != nil || len(images) == 0 {
		return def, err
	}
	c.used(images)
	c.lookAgain(ctx, images)
	if !c.localize {
		if c.opts.offline {
			return nil, fmt.Errorf("offline: this builder cannot be kept from asking the registry for %s: it does not support %s", images[0].Ref, pb.CapSourceOCILayout)
		}
		return def, nil
	}
	store := graph.Store{SessionID: c.bopts.SessionID, ID: emptyStore}
	return graph.Localize(def, store, func(img graph.Image) (reference.Canonical, error) {
		return c.local(ctx, img)
	})
}

// local returns the reference by which img can be taken from the builder, nil
// where it cannot. Offline it always can, or it is an error.
func (c *decorated) local(ctx context.Context, img graph.Image) (reference.Canonical, error) {
	ref, ok := img.Ref.(reference.Canonical)
	if ok && c.names.Held(ref, img.Platform) {
		return ref, nil
	}
	if !c.opts.offline {
		return nil, nil
	}
	if !ok || !c.names.Knows(ref, img.Platform) {
		// Not one of the Dockerfile's names, but of an input's definition.
		a, err := c.names.Resolve(ctx, resolve.Query{Name: img.Ref, Platform: img.Platform, Step: "[internal]"})
		if err != nil {
			return nil, err
		}
		named, err := reference.ParseNormalizedNamed(a.Ref)
		if err != nil {
			return nil, err
		}
		if ref, ok = named.(reference.Canonical); !ok {
			return nil, fmt.Errorf("offline: %s has no digest on this builder", img.Ref)
		}
	}
	if !c.names.Held(ref, img.Platform) {
		return nil, &resolve.OfflineError{Name: reference.FamiliarString(img.Ref), Digest: ref.Digest(), Platform: platforms.FormatAll(img.Platform)}
	}
	return ref, nil
}

// withoutRegistries drops the cache imports that would ask a registry.
func (c *decorated) withoutRegistries(ctx context.Context, imports []client.CacheOptionsEntry) []client.CacheOptionsEntry {
	return slices.DeleteFunc(slices.Clone(imports), func(im client.CacheOptionsEntry) bool {
		remote := im.Type != "local"
		if remote {
			c.builder.warnOnce(ctx, "cache "+im.Type, fmt.Sprintf("offline: cache import of type %s from %q is left out", im.Type, im.Attrs["ref"]))
		}
		return remote
	})
}

// Inputs returns the inputs of the build with images taken from their
// registries again: a store of the build that they come from may be gone.
func (c *decorated) Inputs(ctx context.Context) (map[string]llb.State, error) {
	inputs, err := c.Client.Inputs(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.given = len(inputs) > 0
	c.mu.Unlock()
	for name, st := range inputs {
		def, err := st.Marshal(ctx)
		if err != nil {
			return nil, err
		}
		was := def.ToPB()
		if err := c.noteInputs(was); err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		now, err := graph.Globalize(was, emptyStore)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		if now == was {
			continue
		}
		op, err := llb.NewDefinitionOp(now)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		inputs[name] = llb.NewState(op)
	}
	return inputs, nil
}
