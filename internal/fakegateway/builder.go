// Package fakegateway is a BuildKit builder in memory, for tests that run a
// gateway frontend in hundredths of a second.
//
// A Session hands the frontend BuildKit's own gateway client, so references,
// capability checks and error conversion are the real ones. Behind it, where
// buildkitd would answer the gRPC calls, a Builder follows BuildKit v0.33:
// definitions are loaded and checked as solver/llbsolver does, source policies
// run through BuildKit's own engine, images are resolved and pulled as
// source/containerimage and util/pull do, and results are kept by the cache
// keys of solver/llbsolver/ops. Results are lazy as there: a bad definition, a
// denied source or a missing layer is seen by whoever evaluates.
//
// It does not run anything. The programs it knows are localfront's agents;
// every other step succeeds with a result that cannot be read. Every call,
// registry request and container start is logged.
package fakegateway

import (
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
)

// Builder is one builder and the registries it can reach: what survives from
// one build to the next. It is safe for concurrent use.
type Builder struct {
	// Platform is that of its one worker.
	Platform ocispecs.Platform
	// Without are the capabilities, of LLB and of the gateway, that it lacks.
	Without []apicaps.CapID
	// Policy is the source policy of its builds, if any.
	Policy *spb.Policy
	// Registry holds the images of every registry.
	Registry *Registry

	log log

	mu       sync.Mutex
	content  map[digest.Digest]*stored // manifests and configs
	layers   map[digest.Digest]bool
	images   map[string]digest.Digest // the engine's image store, nil without one
	warm     map[string]bool          // repositories in the resolver pool
	cache    map[digest.Digest]*result
	trees    map[digest.Digest]map[string]string // contexts kept until they are taken
	active   map[digest.Digest]*flight
	index    map[digest.Digest]*flight // by cache key, see merge
	sessions int
}

// NewBuilder returns an empty builder for linux/amd64.
func NewBuilder() *Builder {
	b := &Builder{Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"}, active: map[digest.Digest]*flight{}, index: map[digest.Digest]*flight{}}
	b.Registry = &Registry{
		log:   &b.log,
		tags:  map[string]digest.Digest{},
		repos: map[string]map[digest.Digest]*blob{},
		down:  map[string]error{},
	}
	b.Prune()
	b.Restart()
	return b
}

// Restart is what a restart of the daemon does: the resolver pool is cold.
func (b *Builder) Restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.warm = map[string]bool{}
}

// Prune empties the builder, as `docker builder prune --all` does.
func (b *Builder) Prune() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content = map[digest.Digest]*stored{}
	b.layers = map[digest.Digest]bool{}
	b.cache = map[digest.Digest]*result{}
	b.trees = map[digest.Digest]map[string]string{}
}

// PruneContent removes all image content and the results of steps that ran on
// it, and keeps what the ledger recorded.
func (b *Builder) PruneContent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content = map[digest.Digest]*stored{}
	b.layers = map[digest.Digest]bool{}
	b.pruneSteps()
}

// PruneLayers removes layers and step results, and keeps manifests and configs.
func (b *Builder) PruneLayers() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.layers = map[digest.Digest]bool{}
	b.pruneSteps()
}

func (b *Builder) pruneSteps() {
	for k, r := range b.cache {
		if !r.agent {
			delete(b.cache, k)
		}
	}
}

// AddImageStore gives the builder an image store, as the docker driver has.
func (b *Builder) AddImageStore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images = map[string]digest.Digest{}
}

// Store puts an image into the image store under name, with its content, and
// returns its digest. The content has no record of a registry unless pulled is
// true.
func (b *Builder) Store(name string, img Image, pulled bool) digest.Digest {
	named := normalized(name)
	root, blobs := img.build()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images[named.String()] = root
	for d, bl := range blobs {
		if bl.kind == layer {
			b.layers[d] = true
			continue
		}
		st := b.content[d]
		if st == nil {
			st = &stored{data: bl.data, sources: map[string]bool{}}
			b.content[d] = st
		}
		if pulled {
			st.sources[named.Name()] = true
		}
	}
	return root
}

// stored is a blob in the content store with the repositories it came from.
type stored struct {
	data    []byte
	sources map[string]bool
}

// normalized returns name in full. It panics on a bad name: names are written
// in tests.
func normalized(name string) reference.Named {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		panic(err)
	}
	return reference.TagNameOnly(named)
}
