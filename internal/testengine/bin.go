// Package testengine runs real BuildKit daemons for tests and builds with them.
//
// A test starts as many daemons as it likes, each with its own root, socket
// and sandbox; they end with the test, whatever state they are in. The engines
// are the binaries that hack/engines/build.sh puts into the cache. Images and
// registries come from testimage and testregistry.
//
// Nothing here reaches beyond loopback: the daemons' proxy settings send every
// other connection to a closed port.
package testengine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/org/localfront/internal/testimage"
)

// Bin is the path of an engine binary such as "buildkitd". A missing one fails
// the test.
func Bin(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(binDir(t), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("engine %s: %v; run make engines", name, err)
	}
	return path
}

func binDir(t testing.TB) string {
	t.Helper()
	cache, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "bin")
}
