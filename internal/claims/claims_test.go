package claims

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/localfront/internal/testimage"
)

var named = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")

// tests returns the names of all tests and fuzz targets below root.
func tests(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				found[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestClaimsHaveTests: each test that a document names exists, and each row of
// the claims in docs/security.md names one.
func TestClaimsHaveTests(t *testing.T) {
	t.Parallel()
	root, err := testimage.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	found := tests(t, root)
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	claims := 0
	for _, path := range docs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		inClaims := false
		for line := range strings.Lines(string(data)) {
			names := named.FindAllStringSubmatch(line, -1)
			for _, n := range names {
				if !found[n[1]] {
					t.Errorf("%s: there is no %s", filepath.Base(path), n[1])
				}
			}
			inClaims = strings.HasPrefix(line, "| claim |") || inClaims && strings.HasPrefix(line, "|")
			if inClaims && !strings.HasPrefix(line, "| claim |") && !strings.HasPrefix(line, "|---") {
				claims++
				if len(names) == 0 {
					t.Errorf("%s: a claim without a test: %s", filepath.Base(path), line)
				}
			}
		}
	}
	if claims < 15 {
		t.Errorf("%d claims found, want at least 15", claims)
	}
}
