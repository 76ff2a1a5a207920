package testengine

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStateOfKilledTestsIsRemoved: a directory goes with its daemon, and one
// whose test was killed goes when the next one is made.
func TestStateOfKilledTestsIsRemoved(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	stale := filepath.Join(parent, statePrefix+"123.d")
	foreign := filepath.Join(parent, "foreign")
	for _, dir := range []string{filepath.Join(stale, "root"), foreign} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var dirs []string
	var removes []func() error
	for range 2 {
		dir, remove, err := newStateDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		dirs, removes = append(dirs, dir), append(removes, remove)
	}
	for path, want := range map[string]bool{stale: false, foreign: true, dirs[0]: true, dirs[1]: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v; want there: %v", path, err, want)
		}
	}
	for i, remove := range removes {
		if err := remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dirs[i]); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dirs[i], err)
		}
	}
}
