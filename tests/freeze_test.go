package tests

import (
	"context"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend/freeze"
	"github.com/org/localfront/internal/testengine"
)

// freezing is a client whose builds run on frozen contexts.
type freezing struct {
	gateway.Client
	freezer *freeze.Freezer
}

func (c *freezing) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	// A source by itself is the Dockerfile being read.
	if len(req.Definition.GetDef()) > 2 {
		def, err := c.freezer.Freeze(ctx, req.Definition)
		if err != nil {
			return nil, err
		}
		req.Definition = def
	}
	return c.Client.Solve(ctx, req)
}

// frozenDockerfile is BuildKit's Dockerfile frontend on frozen contexts.
func frozenDockerfile(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	f, err := freeze.New(c)
	if err != nil {
		return nil, err
	}
	return builder.Build(ctx, &freezing{Client: c, freezer: f})
}

func TestFreezeSmoke(t *testing.T) {
	t.Parallel()
	d := testengine.StartBuildkitd(t, testengine.Config{})
	opt := testengine.BuildOpt{Dockerfile: "FROM scratch\nCOPY . /src\n", Files: map[string]string{"a/b": "x"}, Opts: map[string]string{"cmdline": "x"}}
	for range 2 {
		res := testengine.MustRun(t.Context(), t, d, opt, frozenDockerfile)
		t.Log(res)
	}
}
