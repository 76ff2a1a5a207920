package parity

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// testCase is one txtar file of the corpus.
type testCase struct {
	name   string
	file   string
	broken bool // a case that must fail
	opts   map[string]string
	setup  []directive
	want   string            // golden, rewritten by -update
	files  map[string][]byte // context, and the prefixes that setup consumes
}

// directive is one line of a case's setup section.
type directive struct {
	verb string
	args []string
}

// has says whether setup holds a directive of that verb.
func (c *testCase) has(verb string) bool {
	return slices.ContainsFunc(c.setup, func(d directive) bool { return d.verb == verb })
}

// corpus reads the cases of one folder of testdata.
func corpus(t *testing.T, folder string) []*testCase {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []*testCase
	for _, file := range names {
		c, err := readCase(file)
		if err != nil {
			t.Fatal(err)
		}
		c.broken = folder == "broken"
		cases = append(cases, c)
	}
	return cases
}

func readCase(file string) (*testCase, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return nil, err
	}
	c := &testCase{
		name:  strings.TrimSuffix(filepath.Base(file), ".txtar"),
		file:  file,
		opts:  map[string]string{},
		files: map[string][]byte{},
	}
	if len(bytes.TrimSpace(archive.Comment)) == 0 {
		return nil, fmt.Errorf("%s: no comment says what it covers", file)
	}
	for _, f := range archive.Files {
		switch f.Name {
		case "opts":
			err = c.readOpts(f.Data)
		case "setup":
			c.readSetup(f.Data)
		case "want":
			c.want = string(f.Data)
		default:
			c.files[f.Name] = f.Data
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return c, nil
}

func (c *testCase) readOpts(data []byte) error {
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "=")
		if !ok {
			return fmt.Errorf("opts: no = in %q", line)
		}
		c.opts[key] = value
	}
	return nil
}

func (c *testCase) readSetup(data []byte) {
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			c.setup = append(c.setup, directive{fields[0], fields[1:]})
		}
	}
}

// saveWant rewrites the golden section of a case.
func (c *testCase) saveWant(want string) error {
	archive, err := txtar.ParseFile(c.file)
	if err != nil {
		return err
	}
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
	if want != "" {
		archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(want)})
	}
	return os.WriteFile(c.file, txtar.Format(archive), 0o644)
}

// names are the placeholders of one case and what they stand for. Every case
// has a part of the registry of its own, so that its first build is the first
// time that anything asks for its images.
type names struct {
	reg, http, git string // prefixes, all ending in a slash
	digests        map[string]string
	files          map[string][]byte
}

var (
	wordPrefix  = regexp.MustCompile(`\b(REG|HTTP|GIT)/`)
	digestOf    = regexp.MustCompile(`DIGEST\{([^}]*)\}`)
	checksumOf  = regexp.MustCompile(`SHA256\{([^}]*)\}`)
	imageOfCase = regexp.MustCompile(`(?:REG/|DIGEST\{)([a-z0-9-]+(?::[a-z0-9.]+)?)`)
)

// expand replaces the placeholders in a text.
func (n *names) expand(text string) string {
	text = wordPrefix.ReplaceAllStringFunc(text, func(m string) string {
		return map[string]string{"REG/": n.reg, "HTTP/": n.http, "GIT/": n.git}[m]
	})
	text = digestOf.ReplaceAllStringFunc(text, func(m string) string {
		return n.digests[digestOf.FindStringSubmatch(m)[1]]
	})
	return checksumOf.ReplaceAllStringFunc(text, func(m string) string {
		return sha256Of(n.files[checksumOf.FindStringSubmatch(m)[1]])
	})
}

// collapse puts the placeholders back, so that texts of different runs compare.
func (n *names) collapse(text string) string {
	text = strings.ReplaceAll(text, n.http, "HTTP/")
	text = strings.ReplaceAll(text, n.git, "GIT/")
	text = strings.ReplaceAll(text, n.reg, "REG/")
	host, repo, _ := strings.Cut(n.reg, "/")
	text = strings.ReplaceAll(text, "http://"+host+"/v2/"+repo, "http://REG/v2/")
	return text
}

// references lists the base images that a case mentions.
func (c *testCase) references() []string {
	var found []string
	add := func(text string) {
		for _, m := range imageOfCase.FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
	}
	for _, data := range c.files {
		add(string(data))
	}
	for _, value := range c.opts {
		add(value)
	}
	for _, d := range c.setup {
		switch d.verb {
		case "oci":
			found = append(found, d.args[1])
		case "image":
			found = append(found, d.args[0])
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// under returns the files below a folder, by their names inside it.
func under(files map[string][]byte, dir string) map[string][]byte {
	inside := map[string][]byte{}
	for name, data := range files {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			inside[path.Clean(rest)] = data
		}
	}
	return inside
}
