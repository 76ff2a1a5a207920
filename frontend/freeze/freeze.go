// Package freeze makes definitions independent of the session that they were
// made for: each local:// source, whose files only that session can send, is
// replaced by a vertex that holds the same files on the builder.
//
// Two vertices do it. The first, keep, mounts the context read-only, which
// BuildKit keys by content, and a cache mount; it copies the tree into that
// mount under a digest of all it holds, and its result is the digest. While the
// content stays as it is, keep is cached and nothing runs. The second, take
// with the digest in its arguments, takes the tree out of the cache mount,
// checks the digest, and is cached from then on. A build that uses take in the
// place of the context can be repeated by anybody on the builder.
//
// What the program of both does is told in frontend/agents/freeze.c. When to
// freeze is decided elsewhere.
package freeze

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/frontend/agents"
	"github.com/org/localfront/frontend/graph"
)

const localScheme = srctypes.LocalScheme + "://"

// cacheID names the cache mount. The ids of those in a Dockerfile always have a
// slash in them (dockerfile2llb, dispatchRunMounts), so no Dockerfile mounts it.
const cacheID = "localfront-contexts"

// forgotten is after how many seconds in the cache mount a tree was left there
// by a build that was stopped: take removes what it has taken.
const forgotten = "86400"

// attempts bounds how often a tree is kept that cannot be taken afterwards.
const attempts = 3

// ErrUnsupported is returned by New for a builder that lacks what freezing
// takes.
var ErrUnsupported = errors.New("this builder cannot freeze contexts")

// Solver is the part of the gateway client that freezing needs.
type Solver interface {
	Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error)
	BuildOpts() client.BuildOpts
}

// Freezer freezes the contexts of one build. It is safe for concurrent use.
type Freezer struct {
	solver   Solver
	root     llb.State
	platform ocispecs.Platform
	caps     apicaps.CapSet
}

// New returns the Freezer of the build behind s, or an error that wraps
// ErrUnsupported.
func New(s Solver) (*Freezer, error) {
	bopts := s.BuildOpts()
	bin, p, err := agents.Freeze.ForBuilder(bopts, pb.CapFileBase, pb.CapExecMetaNetwork, pb.CapExecMountCache, pb.CapExecMountCacheSharing)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return &Freezer{
		solver:   s,
		root:     llb.Scratch().File(llb.Mkfile("/freeze", 0o555, bin), hidden("agent")...),
		platform: p,
		caps:     bopts.LLBCaps,
	}, nil
}

// Freeze returns def with every local source replaced by its files on the
// builder, which are there when it returns. Contexts are sent by the session
// for that, all at once. Where def has no local source it is returned itself.
//
// An *Error names the context that could not be frozen.
func (f *Freezer) Freeze(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	locals, err := graph.Sources(def, localScheme)
	if err != nil || len(locals) == 0 {
		return def, err
	}
	frozen := make([]*pb.Definition, len(locals))
	eg, egCtx := errgroup.WithContext(ctx)
	for i, local := range locals {
		eg.Go(func() error {
			var err error
			if frozen[i], err = f.freeze(egCtx, local); err != nil {
				return newError(local, err)
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	by := make(map[string]*pb.Definition, len(locals))
	for i, local := range locals {
		by[local.Digest] = frozen[i]
	}
	return graph.Replace(def, by)
}

// freeze returns the definition that holds the files of a local source, with
// the files there. Where keep is cached and the tree is neither in the cache
// mount nor in take's cache any more, or is not what it was, both have to run
// again, and under another key. To ignore the cache of a vertex that has a cache
// mount would empty the mount for everybody (detectPrunedCacheID), and a vertex
// that has failed fails at once for as long as this build runs, whoever solves
// one of the same key (scheduler.mergeTo). lend is take under such a key. It
// leaves the tree for the take of the next build.
func (f *Freezer) freeze(ctx context.Context, local graph.Part) (*pb.Definition, error) {
	again := ""
	for attempt := 1; ; attempt++ {
		tree, err := f.keep(ctx, local, again)
		if err != nil {
			return nil, err
		}
		def, err := f.take(ctx, local, tree, again)
		if err == nil || attempt == attempts || ctx.Err() != nil {
			return def, err
		}
		again = identity.NewID()
	}
}

// keep copies the context into the cache mount and returns its digest.
func (f *Freezer) keep(ctx context.Context, local graph.Part, again string) (digest.Digest, error) {
	source, err := llb.NewDefinitionOp(local.Definition)
	if err != nil {
		return "", err
	}
	var env []llb.RunOption
	if again != "" {
		env = append(env, llb.AddEnv("LOCALFRONT_AGAIN", again))
	}
	run := f.run("keep "+nameOf(local), []string{"keep", forgotten}, env...)
	run.AddMount("/in", llb.NewState(source), llb.Readonly)
	def, err := f.marshal(ctx, run.AddMount("/out", llb.Scratch()))
	if err != nil {
		return "", err
	}
	res, err := f.solver.Solve(ctx, client.SolveRequest{Definition: def})
	if err != nil {
		return "", err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return "", err
	}
	dt, err := ref.ReadFile(ctx, client.ReadRequest{Filename: "digest"})
	if err != nil {
		return "", err
	}
	return digest.Parse(string(dt))
}

// take returns the definition whose result is a tree, with the tree in it.
func (f *Freezer) take(ctx context.Context, local graph.Part, tree digest.Digest, again string) (*pb.Definition, error) {
	args := []string{"take", tree.String()}
	if again != "" {
		args = []string{"lend", tree.String(), again}
	}
	run := f.run(args[0]+" "+tree.String(), args, llb.WithDescription(map[string]string{graph.KeyContext: nameOf(local)}))
	def, err := f.marshal(ctx, run.AddMount("/out", llb.Scratch()))
	if err != nil {
		return nil, err
	}
	_, err = f.solver.Solve(ctx, client.SolveRequest{Definition: def, Evaluate: true})
	return def, err
}

// run returns the agent with the cache mount. That is shared with whatever
// other agents run, since they name only what is complete.
func (f *Freezer) run(title string, args []string, opts ...llb.RunOption) llb.ExecState {
	opts = append(opts,
		llb.Args(append([]string{"/freeze"}, args...)),
		llb.ReadonlyRootFS(),
		llb.Network(pb.NetMode_NONE),
		llb.Dir("/"),
	)
	for _, o := range hidden(title) {
		opts = append(opts, o)
	}
	run := f.root.Run(opts...)
	run.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir(cacheID, llb.CacheMountShared))
	return run
}

func (f *Freezer) marshal(ctx context.Context, st llb.State) (*pb.Definition, error) {
	def, err := st.Marshal(ctx, llb.Platform(f.platform), llb.WithCaps(f.caps))
	if err != nil {
		return nil, err
	}
	return def.ToPB(), nil
}

// hidden keeps a vertex out of the user's progress: a weak group without a
// strong member is not drawn (util/progress/progressui). The group is the same
// each time, since definitions that are recorded must be.
func hidden(title string) []llb.ConstraintsOpt {
	return []llb.ConstraintsOpt{
		llb.ProgressGroup("localfront-freeze", "[internal] localfront", true),
		llb.WithCustomName("[internal] " + title),
	}
}

// nameOf is the name of a context.
func nameOf(local graph.Part) string {
	return strings.TrimPrefix(local.Op.GetSource().GetIdentifier(), localScheme)
}

// Error says that a context could not be frozen.
type Error struct {
	// Context is its name: "context" for the main one.
	Context string
	// Err is what went wrong.
	Err error
}

func newError(local graph.Part, err error) *Error { return &Error{Context: nameOf(local), Err: err} }

// statuses are what the agent's exit status means, see enum status of
// frontend/agents/freeze.c.
var statuses = map[uint32]string{
	2: "its files could not be read on the builder",
	3: "the builder could not write its files, its disk may be full",
	4: "its files are gone from the builder's cache again and again: see whether something prunes it",
	5: "its files were changed in the builder's cache again and again: see what mounts " + cacheID,
}

// Error names the context and says why it cannot be frozen.
func (e *Error) Error() string {
	var exit *gwpb.ExitError
	if errors.As(e.Err, &exit) && statuses[exit.ExitCode] != "" {
		return fmt.Sprintf("freeze context %q: %s: %v", e.Context, statuses[exit.ExitCode], e.Err)
	}
	return fmt.Sprintf("freeze context %q: %v", e.Context, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
