package depcheck

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport is, for each package that ships, what it may import of this
// module. Imports point one way: cmd, frontend, {resolve, calls}, {lockfile,
// ledger, graph}. A new package gets a line here.
var mayImport = map[string][]string{
	"cmd/frontend":      {"frontend"},
	"frontend":          {"frontend/resolve", "frontend/calls", "frontend/lockfile", "frontend/ledger", "frontend/freeze", "frontend/graph"},
	"frontend/resolve":  {"frontend/lockfile", "frontend/ledger", "frontend/graph"},
	"frontend/calls":    {"frontend/lockfile", "frontend/ledger", "frontend/graph"},
	"frontend/lockfile": {},
	"frontend/freeze":   {"frontend/agents", "frontend/graph"},
	"frontend/ledger":   {"frontend/agents"},
	"frontend/agents":   {},
	"frontend/graph":    {},
}

const (
	buildkit = "github.com/moby/buildkit"
	gateway  = buildkit + "/frontend/gateway/client"
)

// mustNotImport is what a package must not import itself, and why.
var mustNotImport = []struct {
	pkg, path string
	deep      bool // nor through another package; the path and all below it
	why       string
}{
	{"frontend/lockfile", buildkit, true, "the lock's grammar knows no BuildKit"},
	{"frontend/resolve", gateway, false, "it decides over small interfaces and does no I/O"},
}

func list(t *testing.T) []Package {
	t.Helper()
	pkgs, err := List()
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// ships reports whether a package can be part of a shipped binary.
func ships(p Package) bool { return p.Within("cmd") || p.Within("frontend") }

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if !ships(p) || len(p.GoFiles) == 0 {
			continue
		}
		may, known := mayImport[p.Name()]
		if !known {
			t.Errorf("%s is new: say in mayImport what it may import", p.Name())
			continue
		}
		for _, name := range p.Own() {
			if !slices.Contains(may, name) {
				t.Errorf("%s imports %s: it may import only %q of this module", p.Name(), name, may)
			}
		}
	}
}

// The rule above says this too; this one holds through other modules' packages
// and whatever mayImport comes to say.
func TestNoTestDoubleShips(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if !ships(p) {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, Module+"/internal/") || strings.HasPrefix(dep, Module+"/tests/") || dep == "testing" {
				t.Errorf("%s depends on %s, which is for tests", p.Name(), dep)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, rule := range mustNotImport {
			if p.Name() != rule.pkg {
				continue
			}
			paths := p.Imports
			if rule.deep {
				paths = p.Deps
			}
			for _, path := range paths {
				if path == rule.path || rule.deep && strings.HasPrefix(path, rule.path+"/") {
					t.Errorf("%s depends on %s: %s", p.Name(), path, rule.why)
				}
			}
		}
	}
}

// Stdout is the pipe to BuildKit: one byte of ours breaks the build.
func TestNothingPrints(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if !p.Within("frontend") {
			continue
		}
		found, err := Prints(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range found {
			t.Errorf("%s/%s: stdout is the pipe to BuildKit", p.Name(), at)
		}
	}
}

func TestPrintsFinds(t *testing.T) {
	t.Parallel()
	const src = `package p

import (
	"fmt"
	system "os"
)

func f(w struct{ Stdout int }) {
	fmt.Println("a")
	_ = fmt.Sprintf("b")
	_ = system.Stdout
	_ = w.Stdout
	println("c")
	_ = system.Stderr
}
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Prints(Package{Dir: dir, GoFiles: []string{"p.go"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"p.go:9: fmt.Println", "p.go:11: os.Stdout", "p.go:13: println"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
