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
	useMemory(t)
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
		}
	}
	return w, sides
}

// useMemory keeps the daemons' state in memory where the machine has a file
// system for that: half of the suite's time would go into syncing to disk.
func useMemory(t *testing.T) {
	t.Helper()
	const shm = "/dev/shm"
	if dir, err := os.MkdirTemp(shm, "lf"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		t.Setenv("TMPDIR", dir)
	}
}
