package fakegateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/worker/label"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// Build is what a user asks of a builder.
type Build struct {
	// Opts are the options of the frontend.
	Opts map[string]string
	// Locals are the files of local sources: "dockerfile", "context" and those
	// of named contexts.
	Locals map[string]map[string]string
	// Stores are the user's OCI layouts by the id of their store.
	Stores map[string]Image
	// Inputs are the inputs from another build.
	Inputs map[string]*pb.Definition
}

// Session is one build: the server's side of the gateway. Use it for one Run.
type Session struct {
	gwpb.LLBBridgeClient // nil: what is not overridden is not modelled

	builder *Builder
	build   Build
	id      string
	// Forward, if set, answers a Solve that names a frontend.
	Forward func(*gwpb.SolveRequest) error

	mu       sync.Mutex
	refs     map[string]*proxy
	returned *gwpb.ReturnRequest
}

var _ gwpb.LLBBridgeClient = &Session{}

// Session starts a build.
func (b *Builder) Session(what Build) *Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions++
	return &Session{builder: b, build: what, id: "session" + strconv.Itoa(b.sessions), refs: map[string]*proxy{}}
}

// Client returns the gateway client that a frontend in a container has. Tests
// that need no Result use it without Run; the session then ends with Close.
func (s *Session) Client(ctx context.Context) (grpcclient.GrpcClient, error) {
	return grpcclient.New(ctx, s.build.Opts, s.id, "", s, []client.WorkerInfo{{
		ID:        "worker",
		Labels:    map[string]string{label.Executor: "oci"},
		Platforms: []platforms.Platform{s.builder.Platform},
	}})
}

// Close ends the session.
func (s *Session) Close() { s.builder.land(s) }

// Result is what buildkitd has after a frontend returned.
type Result struct {
	Refs     map[string]*pb.Definition // "" where the result is one
	Metadata map[string][]byte
}

// Run runs a frontend as buildkitd does: what it returns is evaluated, and an
// error is the one that the user's client gets.
func (s *Session) Run(ctx context.Context, f client.BuildFunc) (*Result, error) {
	defer s.Close()
	c, err := s.Client(ctx)
	if err != nil {
		return nil, err
	}
	runErr := c.Run(ctx, f)
	s.mu.Lock()
	ret := s.returned
	s.mu.Unlock()
	switch {
	case ret == nil:
		return nil, fmt.Errorf("the frontend returned nothing: %w", runErr)
	case ret.Error != nil:
		return nil, grpcerrors.FromGRPC(status.ErrorProto(ret.Error))
	case runErr != nil:
		return nil, runErr
	}
	return s.export(ctx, ret.Result)
}

// export evaluates a result.
func (s *Session) export(ctx context.Context, res *gwpb.Result) (*Result, error) {
	out := &Result{Refs: map[string]*pb.Definition{}, Metadata: res.Metadata}
	refs := map[string]string{}
	switch r := res.Result.(type) {
	case *gwpb.Result_Ref:
		refs[""] = r.Ref.Id
	case *gwpb.Result_Refs:
		for k, v := range r.Refs.Refs {
			refs[k] = v.Id
		}
	}
	for _, k := range slices.Sorted(maps.Keys(refs)) {
		if refs[k] == "" {
			continue
		}
		p, err := s.ref(refs[k])
		if err != nil {
			return nil, err
		}
		out.Refs[k] = p.def
		if _, err := p.result(ctx); err != nil {
			return nil, s.received(ctx, err)
		}
	}
	return out, nil
}

// received is an error after it has gone over the wire.
func (s *Session) received(ctx context.Context, err error) error {
	return grpcerrors.FromGRPC(grpcerrors.ToGRPC(ctx, err))
}

// proxy is a reference: a definition that is loaded when it is needed
// (resultProxy in solver/llbsolver/result.go).
type proxy struct {
	session *Session
	def     *pb.Definition
	policy  []*spb.Policy

	mu   sync.Mutex
	done *result
	err  error
}

func (p *proxy) result(ctx context.Context) (*result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil || p.err != nil {
		return p.done, p.err
	}
	res, err := p.load(ctx)
	if err != nil {
		var ve *errdefs.VertexError
		if errors.As(err, &ve) {
			err = p.locate(err, ve.Digest)
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
	p.done, p.err = res, err
	return res, err
}

func (p *proxy) load(ctx context.Context) (*result, error) {
	e, err := p.session.builder.load(ctx, p.def, p.session.builder.engine(p.policy))
	if err != nil {
		return nil, fmt.Errorf("failed to load LLB: %w", err)
	}
	res, _, err := p.session.evaluate(ctx, e.vertex)
	return res, err
}

// locate adds the source locations of a vertex to its error.
func (p *proxy) locate(err error, vertex string) error {
	for _, loc := range p.def.GetSource().GetLocations()[vertex].GetLocations() {
		err = errdefs.WithSource(err, &errdefs.Source{Info: p.def.Source.Infos[loc.SourceIndex], Ranges: loc.Ranges})
	}
	return err
}

func (b *Builder) engine(extra []*spb.Policy) *sourcepolicy.Engine {
	var all []*spb.Policy
	if b.Policy != nil {
		all = append(all, b.Policy)
	}
	return sourcepolicy.NewEngine(append(all, extra...))
}

func (s *Session) ref(id string) (*proxy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.refs[id]
	if !ok {
		return nil, fmt.Errorf("no such ref: %s", id)
	}
	return p, nil
}

// lacks reports whether the builder lacks a capability.
func (b *Builder) lacks(c string) bool { return slices.Contains(b.Without, apicaps.CapID(c)) }

// Ping tells what the builder can do.
func (s *Session) Ping(context.Context, *gwpb.PingRequest, ...grpc.CallOption) (*gwpb.PongResponse, error) {
	without := func(all []*apicaps.PBCap) []*apicaps.PBCap {
		return slices.DeleteFunc(all, func(c *apicaps.PBCap) bool { return s.builder.lacks(c.ID) })
	}
	return &gwpb.PongResponse{FrontendAPICaps: without(gwpb.Caps.All()), LLBCaps: without(pb.Caps.All())}, nil
}

// need fails as a builder without a capability does, which has no such method.
func (s *Session) need(c apicaps.CapID) error {
	if s.builder.lacks(string(c)) {
		return fmt.Errorf("fakegateway: the call needs %s, which this builder lacks", c)
	}
	return nil
}

// ResolveImageConfig resolves an image the old way.
func (s *Session) ResolveImageConfig(ctx context.Context, in *gwpb.ResolveImageConfigRequest, _ ...grpc.CallOption) (*gwpb.ResolveImageConfigResponse, error) {
	src := &pb.SourceOp{Identifier: "docker-image://" + in.Ref}
	if in.ResolverType == 1 {
		src.Identifier = "oci-layout://" + in.Ref
		src.Attrs = map[string]string{pb.AttrOCILayoutSessionID: in.SessionID, pb.AttrOCILayoutStoreID: in.StoreID}
	}
	img, err := s.metadata(ctx, src, &gwpb.ResolveSourceMetaRequest{
		Platform: in.Platform, LogName: in.LogName, ResolveMode: in.ResolveMode, SourcePolicies: in.SourcePolicies,
	})
	if err != nil {
		return nil, s.received(ctx, fmt.Errorf("failed to resolve source metadata for %s: %w", in.Ref, err))
	}
	_, ref, _ := cutScheme(src.Identifier)
	return &gwpb.ResolveImageConfigResponse{Ref: ref, Digest: img.Digest, Config: img.Config}, nil
}

// ResolveSourceMeta resolves a source.
func (s *Session) ResolveSourceMeta(ctx context.Context, in *gwpb.ResolveSourceMetaRequest, _ ...grpc.CallOption) (*gwpb.ResolveSourceMetaResponse, error) {
	if err := s.need(gwpb.CapSourceMetaResolver); err != nil {
		return nil, err
	}
	src := in.Source.CloneVT()
	img, err := s.metadata(ctx, src, in)
	if err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.ResolveSourceMetaResponse{Source: src, Image: img}, nil
}

// metadata resolves src, which a policy may change, and returns what is known
// of the image that it is.
func (s *Session) metadata(ctx context.Context, src *pb.SourceOp, in *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceImageResponse, error) {
	p := s.builder.Platform
	if in.Platform != nil {
		p = in.Platform.Spec()
	}
	what := src.Identifier + " " + platforms.FormatAll(p)
	if in.GetImage().GetNoConfig() {
		what += " (policy only)"
	}
	if err := s.builder.log.add(ctx, Call{Kind: Resolve, What: what, Line: in.LogName}); err != nil {
		return nil, err
	}
	if _, err := s.builder.engine(in.SourcePolicies).Evaluate(ctx, src); err != nil {
		return nil, fmt.Errorf("could not resolve image due to policy: %w", err)
	}
	if err := s.builder.validateSource(src); err != nil {
		return nil, err
	}
	scheme, _, _ := cutScheme(src.Identifier)
	if scheme != "docker-image" && scheme != "oci-layout" {
		return nil, nil
	}
	if in.GetImage().GetNoConfig() && scheme == "docker-image" {
		return &gwpb.ResolveSourceImageResponse{}, nil
	}
	ref, from, err := s.remote(src, in.ResolveMode)
	if err != nil {
		return nil, err
	}
	img, err := s.builder.pull(ctx, ref, p, from)
	if err != nil {
		return nil, err
	}
	return &gwpb.ResolveSourceImageResponse{Digest: img.root.String(), Config: img.config}, nil
}

// Solve takes a definition.
func (s *Session) Solve(ctx context.Context, in *gwpb.SolveRequest, _ ...grpc.CallOption) (*gwpb.SolveResponse, error) {
	in = in.CloneVT()
	what := summary(in.Definition)
	if in.Frontend != "" {
		what = "frontend " + in.Frontend
	}
	if err := s.builder.log.add(ctx, Call{Kind: Solve, What: what, Definition: in.Definition, Request: in}); err != nil {
		return nil, s.received(ctx, err)
	}
	if in.Frontend != "" {
		if s.Forward == nil {
			return nil, s.received(ctx, fmt.Errorf("invalid frontend: %s", in.Frontend))
		}
		return &gwpb.SolveResponse{Result: &gwpb.Result{Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{}}}}, s.Forward(in)
	}
	ref := &gwpb.Ref{}
	if in.Definition.GetDef() != nil {
		p := &proxy{session: s, def: in.Definition, policy: in.SourcePolicies}
		s.mu.Lock()
		ref.Id = "ref" + strconv.Itoa(len(s.refs))
		ref.Def = in.Definition
		s.refs[ref.Id] = p
		s.mu.Unlock()
		if in.Evaluate {
			if _, err := p.result(ctx); err != nil {
				return nil, s.received(ctx, err)
			}
		}
	}
	return &gwpb.SolveResponse{Result: &gwpb.Result{Result: &gwpb.Result_Ref{Ref: ref}}}, nil
}

// use evaluates the reference of a call.
func (s *Session) use(ctx context.Context, kind Kind, id, what string) (*result, error) {
	p, err := s.ref(id)
	if err != nil {
		return nil, err
	}
	if err := s.builder.log.add(ctx, Call{Kind: kind, What: what + summary(p.def)}); err != nil {
		return nil, err
	}
	return p.result(ctx)
}

// ReadFile reads a file of a result.
func (s *Session) ReadFile(ctx context.Context, in *gwpb.ReadFileRequest, _ ...grpc.CallOption) (*gwpb.ReadFileResponse, error) {
	res, err := s.use(ctx, Read, in.Ref, in.FilePath+" of ")
	if err != nil {
		return nil, s.received(ctx, err)
	}
	dt, err := s.file(ctx, res, in.FilePath)
	if err != nil {
		return nil, s.received(ctx, err)
	}
	if r := in.Range; r != nil {
		dt = dt[min(int64(len(dt)), r.Offset):]
		dt = dt[:min(int64(len(dt)), r.Length)]
	}
	return &gwpb.ReadFileResponse{Data: []byte(dt)}, nil
}

// ReadDir lists a folder of a result.
func (s *Session) ReadDir(ctx context.Context, in *gwpb.ReadDirRequest, _ ...grpc.CallOption) (*gwpb.ReadDirResponse, error) {
	res, err := s.use(ctx, List, in.Ref, in.IncludePattern+" in "+in.DirPath+" of ")
	if err != nil {
		return nil, s.received(ctx, err)
	}
	entries, err := res.list(in.DirPath, in.IncludePattern)
	if err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.ReadDirResponse{Entries: entries}, nil
}

// StatFile stats a file of a result.
func (s *Session) StatFile(ctx context.Context, in *gwpb.StatFileRequest, _ ...grpc.CallOption) (*gwpb.StatFileResponse, error) {
	res, err := s.use(ctx, Stat, in.Ref, in.Path+" of ")
	if err != nil {
		return nil, s.received(ctx, err)
	}
	dt, err := s.file(ctx, res, in.Path)
	if err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.StatFileResponse{Stat: &fstypes.Stat{Path: in.Path, Size: int64(len(dt))}}, nil
}

// Evaluate evaluates a result.
func (s *Session) Evaluate(ctx context.Context, in *gwpb.EvaluateRequest, _ ...grpc.CallOption) (*gwpb.EvaluateResponse, error) {
	if err := s.need(gwpb.CapGatewayEvaluate); err != nil {
		return nil, err
	}
	if _, err := s.use(ctx, Evaluate, in.Ref, ""); err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.EvaluateResponse{}, nil
}

// Inputs returns the inputs of the build.
func (s *Session) Inputs(ctx context.Context, _ *gwpb.InputsRequest, _ ...grpc.CallOption) (*gwpb.InputsResponse, error) {
	if err := s.builder.log.add(ctx, Call{Kind: Inputs}); err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.InputsResponse{Definitions: s.build.Inputs}, nil
}

// Warn shows a warning.
func (s *Session) Warn(ctx context.Context, in *gwpb.WarnRequest, _ ...grpc.CallOption) (*gwpb.WarnResponse, error) {
	if err := s.need(gwpb.CapGatewayWarnings); err != nil {
		return nil, err
	}
	if err := s.builder.log.add(ctx, Call{Kind: Warn, What: string(in.Short), Warning: in.CloneVT()}); err != nil {
		return nil, s.received(ctx, err)
	}
	return &gwpb.WarnResponse{}, nil
}

// Return takes what the frontend returns.
func (s *Session) Return(_ context.Context, in *gwpb.ReturnRequest, _ ...grpc.CallOption) (*gwpb.ReturnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Error == nil && in.Result == nil {
		return nil, errors.New("result is required")
	}
	s.returned = in.CloneVT()
	return &gwpb.ReturnResponse{}, nil
}
