// Package depcheck keeps the boundaries between packages, as tests: which
// package may import which, and what none may do. The tables are in its test.
//
// Imports are read with `go list`, so only what is compiled for this machine
// counts; it leaves style to hack/lint.
package depcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the path of the module whose packages are checked.
const Module = "github.com/org/localfront"

// Package is a package as `go list` shows it.
type Package struct {
	// ImportPath is the full path, such as Module + "/frontend".
	ImportPath string
	// Dir is the folder of the sources.
	Dir string
	// GoFiles are the names of the files without tests.
	GoFiles []string
	// Imports are the paths that the package imports itself, tests left out.
	Imports []string
	// Deps are all that it imports, directly or not.
	Deps []string
}

// Name is the path within the module, such as "frontend/resolve".
func (p Package) Name() string { return strings.TrimPrefix(p.ImportPath, Module+"/") }

// Within reports whether the package is the folder, or below it.
func (p Package) Within(folder string) bool {
	return p.Name() == folder || strings.HasPrefix(p.Name(), folder+"/")
}

// Own returns the packages of the module that the package imports itself.
func (p Package) Own() []string {
	var own []string
	for _, path := range p.Imports {
		if name, ok := strings.CutPrefix(path, Module+"/"); ok {
			own = append(own, name)
		}
	}
	return own
}

// List returns all packages of the module.
func List() ([]Package, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", Module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []Package
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// Prints returns where a package writes to the process's own output, as
// "file:line: what": fmt.Print and its like, os.Stdout, and the builtins print
// and println.
func Prints(p Package) ([]string, error) {
	var found []string
	for _, file := range p.GoFiles {
		in, err := printsOf(filepath.Join(p.Dir, file))
		if err != nil {
			return nil, err
		}
		found = append(found, in...)
	}
	return found, nil
}

func printsOf(file string) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	names := importNames(f)
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		what := ""
		switch n := n.(type) {
		case *ast.SelectorExpr:
			what = printingSelector(n, names)
		case *ast.CallExpr:
			if fn, ok := n.Fun.(*ast.Ident); ok && (fn.Name == "print" || fn.Name == "println") {
				what = fn.Name
			}
		}
		if what != "" {
			at := fset.Position(n.Pos())
			found = append(found, fmt.Sprintf("%s:%d: %s", filepath.Base(file), at.Line, what))
		}
		return true
	})
	return found, nil
}

// printingSelector returns "fmt.Println" and the like, "" for other selectors.
func printingSelector(n *ast.SelectorExpr, names map[string]string) string {
	x, ok := n.X.(*ast.Ident)
	if !ok {
		return ""
	}
	name := names[x.Name] + "." + n.Sel.Name
	if slices.Contains([]string{"fmt.Print", "fmt.Printf", "fmt.Println", "os.Stdout"}, name) {
		return name
	}
	return ""
}

// importNames returns the paths of a file's imports by the names they have
// there, which for the packages of interest is the path's last element.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, im := range f.Imports {
		path, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if im.Name != nil {
			name = im.Name.Name
		}
		names[name] = path
	}
	return names
}
