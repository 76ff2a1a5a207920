// Package ledger is what a builder remembers: a key-value store made of the
// solver's own cache, since a frontend has no disk, no session data and no
// access to the daemon's database.
//
// An entry is an ExecOp whose arguments are a tiny agent and the key. The
// value travels in Meta.ProxyEnv, which BuildKit leaves out of an ExecOp's
// cache key (solver/llbsolver/ops/exec.go, CacheMap). So a write is a solve
// with the value in ProxyEnv and the cache ignored, and a read is a solve of
// the same vertex without either: a cache hit returns what was written last
// and starts no container.
//
// The ledger is a cache. It lives as long as the layers beside it, pruning the
// builder empties it, and nothing breaks then. What a name means is decided
// elsewhere (package resolve).
package ledger

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/agents"
)

// keyPrefix starts every key and carries the version of the format.
const keyPrefix = "localfront/v1 "

// timeout bounds one read or write. A read that hits the cache takes
// milliseconds; one that must start the agent may take seconds on a busy
// builder, and no build shall hang on what is only a cache.
const timeout = 30 * time.Second

// atOnce bounds the reads and writes of one build at the same moment. Each may
// start an agent: a build with fifty new names would otherwise keep a builder
// so busy with itself that it runs into its own timeout.
const atOnce = 10

// ErrTimeout is why a read or write that took too long was given up.
var ErrTimeout = errors.New("the builder took too long")

// timeoutError is an ErrTimeout that says how long.
type timeoutError time.Duration

// Error says how long the builder was waited for.
func (e timeoutError) Error() string {
	return fmt.Sprintf("the builder took longer than %s", time.Duration(e))
}

// Is makes it an ErrTimeout.
func (e timeoutError) Is(target error) bool { return target == ErrTimeout }

// The files that are read: the agent's result, and the agent.
const (
	valueFile = "value"
	agentFile = "agent"
)

// maxFile bounds what is read back, in bytes.
const maxFile = 1 << 20

// proxyFields names the fields of pb.ProxyEnv that the agent joins, in its
// order. NO_PROXY is left for the nonce.
var proxyFields = [...]string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY"}

// ErrGoverned is returned by Read for a name that a source policy of this build
// denies or puts another image in the place of.
var ErrGoverned = errors.New("a source policy governs this name")

// ErrSuperseded is returned by Write when another build wrote the same key at
// the same moment and its value was kept.
var ErrSuperseded = errors.New("another build recorded this name at the same moment")

// ErrUnsupported is returned by New for a builder that lacks what a ledger is
// made of.
var ErrUnsupported = errors.New("this builder cannot remember names")

// Solver is the part of the gateway client that the ledger needs.
type Solver interface {
	Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error)
	BuildOpts() client.BuildOpts
}

// Guard returns def with a source beside it and a policy that makes solving fail
// if the build's source policy denies the source or converts it (graph.Guard).
type Guard func(def *pb.Definition, source string) (*pb.Definition, *spb.Policy, error)

// Ledger reads and writes entries on the builder behind a gateway client. It
// is safe for concurrent use.
type Ledger struct {
	solver   Solver
	guard    Guard
	root     llb.State
	platform ocispecs.Platform
	caps     apicaps.CapSet
	scope    string
	turns    chan struct{} // holds one for each read or write under way
}

// New returns the ledger of the builder behind s, or an error that wraps
// ErrUnsupported.
func New(s Solver, guard Guard) (*Ledger, error) {
	bopts := s.BuildOpts()
	bin, p, err := agents.Ledger.ForBuilder(bopts, pb.CapFileBase, pb.CapExecMetaProxy, pb.CapExecMetaNetwork, pb.CapMetaIgnoreCache)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return &Ledger{
		solver:   s,
		guard:    guard,
		root:     llb.Scratch().File(llb.Mkfile("/agent", 0o555, bin), hidden("agent")...),
		platform: p,
		caps:     bopts.LLBCaps,
		turns:    make(chan struct{}, atOnce),
	}, nil
}

// In returns the ledger of one scope, a name for which IsScope is true: what is
// written in one scope is unknown in all others. The empty scope is that of
// builds that name none.
//
// A scope keeps teams that share a builder out of each other's way. It is no
// protection against somebody who knows its name.
func (l *Ledger) In(scope string) *Ledger {
	scoped := *l
	scoped.scope = scope
	return &scoped
}

var scopes = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) })

// IsScope reports whether s can name a scope.
func IsScope(s string) bool { return scopes().MatchString(s) }

// key returns the argument of the agent that stands for name. Neither scopes
// nor names have spaces, so keys of two scopes are never the same.
func (l *Ledger) key(name string) string {
	if l.scope != "" {
		name = "scope=" + l.scope + " " + name
	}
	return keyPrefix + name
}

// Read returns the newest entry for name, with ok false where there is none.
// A value that cannot be understood is an error; the caller treats it as
// absent.
//
// image is what the name stands for in a definition, and ErrGoverned says that
// a source policy of this build denies it or puts another in its place. It
// costs nothing to know, see Guard.
func (l *Ledger) Read(ctx context.Context, name, image string) (_ Entry, ok bool, _ error) {
	req, err := l.request(ctx, name, "")
	if err != nil {
		return Entry{}, false, err
	}
	v, err := l.guarded(ctx, req, image, valueFile)
	if err != nil || v == "" {
		return Entry{}, false, err
	}
	e, err := decode(v)
	return e, err == nil, err
}

// guarded solves what must succeed, with an image under guard beside it, and
// returns a file of it. It fails with ErrGoverned if that is the image's fault.
func (l *Ledger) guarded(ctx context.Context, req client.SolveRequest, image, file string) (string, error) {
	guarded := req
	def, policy, err := l.guard(req.Definition, image)
	if err != nil {
		return "", err
	}
	guarded.Definition, guarded.SourcePolicies = def, []*spb.Policy{policy}
	v, err := l.solve(ctx, guarded, file, timeout)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrTimeout) {
		// Without the image it fails only if it is the ledger's fault.
		if _, bare := l.solve(ctx, req, file, timeout); bare == nil {
			if v, err = l.solve(ctx, guarded, file, timeout); err != nil {
				return "", ErrGoverned
			}
		}
	}
	return v, err
}

// Governed reports whether a source policy of this build denies an image or puts
// another in its place. It starts no container.
func (l *Ledger) Governed(ctx context.Context, image string) (bool, error) {
	def, err := l.root.Marshal(ctx, llb.Platform(l.platform), llb.WithCaps(l.caps))
	if err != nil {
		return false, err
	}
	_, err = l.guarded(ctx, client.SolveRequest{Definition: def.ToPB()}, image, agentFile)
	if errors.Is(err, ErrGoverned) {
		return true, nil
	}
	return false, err
}

// Write records e as what is known of name. Of two writes at the same moment
// one is kept; Write reports ErrSuperseded to the other. ErrTooLarge means
// that nothing was written.
func (l *Ledger) Write(ctx context.Context, name string, e Entry) error {
	v, err := encode(e)
	if err != nil {
		return err
	}
	req, err := l.request(ctx, name, v)
	if err != nil {
		return err
	}
	kept, err := l.solve(ctx, req, valueFile, timeout)
	if err != nil {
		return err
	}
	if kept != v {
		return ErrSuperseded
	}
	return nil
}

// solve solves, when it is its turn, and returns a file of the result: the value
// of the vertex of a key.
func (l *Ledger) solve(ctx context.Context, req client.SolveRequest, file string, limit time.Duration) (string, error) {
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, timeoutError(limit))
	defer cancel()
	res, err := l.solver.Solve(ctx, req)
	if err != nil {
		return "", cause(ctx, err)
	}
	ref, err := res.SingleRef()
	if err != nil {
		return "", err
	}
	dt, err := ref.ReadFile(ctx, client.ReadRequest{Filename: file, Range: &client.FileRange{Length: maxFile}})
	if err != nil {
		return "", cause(ctx, err)
	}
	return string(dt), nil
}

// cause returns why ctx ended, if that is what err is about.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// request returns what solves one key's vertex. With a value it writes, without
// one it reads.
func (l *Ledger) request(ctx context.Context, name, value string) (client.SolveRequest, error) {
	does := "reads "
	if value != "" {
		does = "writes "
	}
	opts := []llb.RunOption{
		llb.Args([]string{"/agent", l.key(name)}),
		llb.ReadonlyRootFS(),
		llb.Network(pb.NetMode_NONE),
		llb.Dir("/"),
		llb.WithProxy(proxyEnv(value)),
	}
	for _, o := range hidden("ledger " + does + name) {
		opts = append(opts, o)
	}
	if value != "" {
		opts = append(opts, llb.IgnoreCache)
	}
	out := l.root.Run(opts...).AddMount("/out", llb.Scratch())
	def, err := out.Marshal(ctx, llb.Platform(l.platform), llb.WithCaps(l.caps))
	if err != nil {
		return client.SolveRequest{}, err
	}
	return client.SolveRequest{Definition: def.ToPB()}, nil
}

// proxyEnv spreads value over the fields that the agent joins. The nonce makes
// the vertex new while it leaves the cache key alone: without it a build would
// share the vertex of any other build still running that read the same key
// earlier, and get that build's old value.
func proxyEnv(value string) llb.ProxyEnv {
	var parts [len(proxyFields)]string
	for i := range parts {
		n := min(len(value), fieldLimit)
		parts[i], value = value[:n], value[n:]
	}
	return llb.ProxyEnv{
		HTTPProxy:  parts[0],
		HTTPSProxy: parts[1],
		FTPProxy:   parts[2],
		AllProxy:   parts[3],
		NoProxy:    identity.NewID(),
	}
}

// hidden keeps a vertex out of the user's progress: a weak group without a
// strong member is not drawn (util/progress/progressui).
func hidden(name string) []llb.ConstraintsOpt {
	return []llb.ConstraintsOpt{
		llb.ProgressGroup(identity.NewID(), "[internal] localfront", true),
		llb.WithCustomName("[internal] " + name),
	}
}
