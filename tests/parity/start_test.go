package parity

import (
	"os"
	"strings"
	"testing"

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
	var sides [2]*side
	for i, frontend := range []string{official, local} {
		_, digest, _ := strings.Cut(frontend, "@")
		d := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{w.registry.Host()}})
		sides[i] = &side{
			name:     []string{"official", "localfront"}[i],
			client:   d.Client(t),
			frontend: frontend,
			digest:   digest,
			learns:   i == 1,
		}
	}
	return w, sides
}
