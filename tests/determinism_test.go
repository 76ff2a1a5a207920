package tests

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend"
	"github.com/org/localfront/internal/testengine"
)

// sameDefinitions runs a build that has succeeded twice more, with localfront in
// this process on the real daemon's gateway, and fails unless both make the very
// same definitions. By then nothing is left to learn, so that all that may
// differ is what must: the session's id and the nonce of a ledger read.
func (r *rig) sameDefinitions(t *testing.T, opt testengine.BuildOpt) {
	t.Helper()
	opt.Exports, opt.CacheExports = nil, nil
	a, b := r.definitions(t, opt), r.definitions(t, opt)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("the same build made other definitions the second time (-first +second):\n%s", diff)
	}
}

// definitions builds and returns the digests of the definitions that were
// solved, with the number of times each was.
func (r *rig) definitions(t *testing.T, opt testengine.BuildOpt) map[digest.Digest]int {
	t.Helper()
	rec := &recorder{seen: map[digest.Digest]int{}}
	testengine.MustRun(t.Context(), t, r.Buildkitd, opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		rec.Client = c
		return frontend.Build(ctx, rec)
	})
	return rec.seen
}

// recorder is a gateway client that takes note of what is solved.
type recorder struct {
	gateway.Client
	mu   sync.Mutex
	seen map[digest.Digest]int
}

func (r *recorder) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Definition != nil {
		d := fingerprint(req.Definition, r.BuildOpts().SessionID)
		r.mu.Lock()
		r.seen[d]++
		r.mu.Unlock()
	}
	return r.Client.Solve(ctx, req)
}

// fingerprint is the digest of a definition without session ids and nonces.
func fingerprint(def *pb.Definition, session string) digest.Digest {
	h := digest.Canonical.Digester()
	renamed := map[string]string{}
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			panic(err)
		}
		for _, in := range op.Inputs {
			in.Digest = renamed[in.Digest]
		}
		if src := op.GetSource(); src != nil {
			maps.DeleteFunc(src.Attrs, func(_, v string) bool { return v == session })
		}
		if exec := op.GetExec(); exec != nil && exec.Meta.ProxyEnv != nil {
			exec.Meta.ProxyEnv.NoProxy = ""
		}
		clean, err := op.Marshal()
		if err != nil {
			panic(err)
		}
		renamed[digest.FromBytes(dt).String()] = digest.FromBytes(clean).String()
		h.Hash().Write(clean)
	}
	return h.Digest()
}
