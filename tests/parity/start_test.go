package parity

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend"
	"github.com/org/localfront/internal/testengine"
)

// start makes the world and the two sides. With PARITY_SELF set, both sides are
// the official frontend, which shows what two builds of one frontend share.
func start(t *testing.T) (*world, [2]*side) {
	t.Helper()
	w := newWorld(t)
	official := testengine.PushOfficial(t, w.registry)
	local := official
	if os.Getenv("PARITY_SELF") == "" {
		local = testengine.PushLocalfront(t, w.registry)
	}
	inside := [2]gateway.BuildFunc{builder.Build, frontend.Build}
	if local == official {
		inside[1] = inside[0]
	}
	var sides [2]*side
	for i, image := range []string{official, local} {
		_, digest, _ := strings.Cut(image, "@")
		d := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{w.registry.Host()}})
		sides[i] = &side{
			name:     []string{"official", "localfront"}[i],
			client:   d.Client(t),
			frontend: image,
			digest:   digest,
			learns:   i == 1,
			inside:   caught(inside[i]),
		}
	}
	return w, sides
}

// caught is a frontend whose panic is an error, as it is where the frontend is a
// process of its own: BuildKit's crashes on a request for targets of a Dockerfile
// with a check comment above an instruction.
func caught(build gateway.BuildFunc) gateway.BuildFunc {
	return func(ctx context.Context, c gateway.Client) (res *gateway.Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				res, err = nil, fmt.Errorf("panic: %v", p)
			}
		}()
		return build(ctx, c)
	}
}
