package frontend

import (
	"context"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/resolve"
)

// emptyStore is the id of a content store that no client has. An image taken
// from it can come from the builder's own content only.
const emptyStore = "localfront-holds-nothing"

// holdsTimeout bounds the question whether an image's layers are on the
// builder. They were unpacked when last seen, so that it takes milliseconds; a
// builder that has to unpack them again gets this long.
const holdsTimeout = 30 * time.Second

// builderQueries answers package resolve's questions with gateway calls.
type builderQueries struct {
	client client.Client
	bopts  client.BuildOpts
	stores bool // the builder can take images from a content store
	// registryOnly is true where provenance shall name images as the registry
	// does.
	registryOnly bool
	lack         sync.Once // says that the builder has no stores

	mu     sync.Mutex
	vertex digest.Digest // what warnings are attached to
	warned map[string]bool
}

var _ resolve.Builder = &builderQueries{}

// Metadata probes the builder's content store, see emptyStore. Where provenance
// is requested the image has to keep its registry's name, so BuildKit is asked
// for the digest there: it finds the content by itself, and sends the registry
// one HEAD, whose failure it ignores, if it has not talked to it for a while.
// A builder that can take nothing from a store (before BuildKit 0.12) is asked
// in the same way, which is the most it can do; the first name says so.
func (b *builderQueries) Metadata(ctx context.Context, ref reference.Canonical, q resolve.Query, line string) ([]byte, error) {
	if !b.stores {
		b.lack.Do(func() { line += ", by its digest (this builder cannot be kept from asking the registry)" })
	}
	if b.registryOnly || !b.stores {
		a, err := b.Ask(ctx, ref, q, line)
		return a.Config, err
	}
	_, _, config, err := b.client.ResolveImageConfig(ctx, ref.String(), sourceresolver.Opt{
		LogName: line,
		OCILayoutOpt: &sourceresolver.ResolveOCILayoutOpt{
			Platform: &q.Platform,
			Store:    sourceresolver.ResolveImageConfigOptStore{SessionID: b.bopts.SessionID, StoreID: emptyStore},
		},
	})
	return config, err
}

// Holds mounts the image from the builder's content. The limit on the number
// of layers, though it is all of them, gives the vertex a cache key of its own
// (source/containerimage/pull.go, mainManifestKey): a build that takes the same
// image from the registry at this moment must not be merged with a vertex that
// may fail. A source policy that makes another image of this one is an answer
// as well: the image is not taken from here then.
func (b *builderQueries) Holds(ctx context.Context, ref reference.Canonical, p ocispecs.Platform, layers int) bool {
	if !b.stores {
		return false
	}
	def, err := llb.OCILayout(ref.String(),
		llb.OCIStore(b.bopts.SessionID, emptyStore),
		llb.OCILayerLimit(layers),
		llb.Platform(p),
		llb.ProgressGroup(identity.NewID(), "[internal] localfront", true), // hidden
		llb.WithCustomName("[internal] layers of "+reference.FamiliarString(ref)),
	).Marshal(ctx, llb.WithCaps(b.bopts.LLBCaps))
	if err != nil {
		return false
	}
	guarded, policy, err := graph.Guard(def.ToPB(), imageScheme+ref.String())
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, holdsTimeout)
	defer cancel()
	res, err := b.client.Solve(ctx, client.SolveRequest{Definition: guarded, SourcePolicies: []*spb.Policy{policy}})
	if err != nil {
		return false
	}
	r, err := res.SingleRef()
	if err != nil || r == nil {
		return false
	}
	_, err = r.StatFile(ctx, client.StatRequest{Path: "."})
	return err == nil
}

// Ask resolves a name as the official frontend does.
func (b *builderQueries) Ask(ctx context.Context, name reference.Named, q resolve.Query, line string) (resolve.Answer, error) {
	ref, dgst, config, err := b.client.ResolveImageConfig(ctx, name.String(), sourceresolver.Opt{
		LogName:  line,
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &q.Platform, ResolveMode: string(q.Mode)},
	})
	return resolve.Answer{Ref: ref, Digest: dgst, Config: config}, err
}

// Show solves a file with the line as its name. The file is the same for all
// lines, so that it is cached but for the first.
func (b *builderQueries) Show(ctx context.Context, line string) {
	def, err := llb.Scratch().File(llb.Mkfile("/localfront", 0o444, nil), llb.WithCustomName(line)).
		Marshal(ctx, llb.WithCaps(b.bopts.LLBCaps))
	if err == nil {
		// A line that cannot be shown is no reason to fail a build.
		_, _ = b.client.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	}
}

// Warn shows a warning beside the vertex that loaded the Dockerfile.
func (b *builderQueries) Warn(ctx context.Context, msg string) {
	b.mu.Lock()
	vertex := b.vertex
	b.mu.Unlock()
	if vertex == "" || b.bopts.Caps.Supports(gwpb.CapGatewayWarnings) != nil {
		return
	}
	// A warning that cannot be shown is no reason to fail a build.
	_ = b.client.Warn(ctx, vertex, msg, client.WarnOpts{Level: 1})
}

// warnOnce warns of one kind of trouble once in a build.
func (b *builderQueries) warnOnce(ctx context.Context, kind, msg string) {
	b.mu.Lock()
	again := b.warned[kind]
	if b.warned == nil {
		b.warned = map[string]bool{}
	}
	b.warned[kind] = true
	b.mu.Unlock()
	if !again {
		b.Warn(ctx, msg)
	}
}

// sawVertex takes note of the first vertex of the build, the one that loads
// the Dockerfile.
func (b *builderQueries) sawVertex(def *pb.Definition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(def.GetDef()); b.vertex == "" && n > 1 {
		b.vertex = digest.FromBytes(def.Def[n-2])
	}
}
