package parity

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/org/localfront/internal/testregistry"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/crypto/ssh"
)

// world is what all cases share beside the daemons: the registry with the base
// images, and a web server for ADD, contexts and git.
type world struct {
	registry *testregistry.Registry
	images   map[string]remote.Taggable
	web      string // host:port
	dir      string // what the web server serves
}

func newWorld(t *testing.T) *world {
	t.Helper()
	images, err := baseImages()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{registry: testregistry.New(t), images: images, dir: t.TempDir()}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(w.dir)))
	mux.Handle("/git/", &cgi.Handler{
		Path:   git,
		Args:   []string{"http-backend"},
		Root:   "/git",
		Env:    []string{"GIT_PROJECT_ROOT=" + filepath.Join(w.dir, "git"), "GIT_HTTP_EXPORT_ALL=1"},
		Stderr: io.Discard,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	w.web = l.Addr().String()
	return w
}

// stage is a case made ready to be built: its names filled in, its files on
// disk, its images in the registry.
type stage struct {
	*testCase
	names   *names
	opts    map[string]string
	mounts  map[string]fsutil.FS
	secrets map[string][]byte
	sshKey  string
	stores  map[string]content.Store
}

func (w *world) prepare(t *testing.T, c *testCase) *stage {
	t.Helper()
	s := &stage{
		testCase: c,
		names: &names{
			reg:     w.registry.Host() + "/" + c.name + "/",
			http:    "http://" + w.web + "/" + c.name + "/",
			git:     "http://" + w.web + "/git/" + c.name + "/",
			digests: map[string]string{},
			files:   c.files,
		},
		opts:    map[string]string{},
		mounts:  map[string]fsutil.FS{},
		secrets: map[string][]byte{},
		stores:  map[string]content.Store{},
	}
	if err := w.push(s); err != nil {
		t.Fatal(err)
	}
	if !c.has("no-epoch") {
		s.opts["build-arg:SOURCE_DATE_EPOCH"] = strconv.FormatInt(epoch.Unix(), 10)
	}
	for key, value := range c.opts {
		s.opts[s.names.expand(key)] = s.names.expand(value)
	}
	if err := w.writeFiles(s, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return s
}

// push copies the images that a case mentions into its part of the registry.
func (w *world) push(s *stage) error {
	for _, ref := range s.references() {
		full := ref
		if !strings.Contains(ref, ":") {
			full += ":latest"
		}
		image, ok := w.images[full]
		if !ok {
			continue // a name that is meant to be missing
		}
		digest, err := w.registry.Push(s.name+"/"+full, image)
		if err != nil {
			return err
		}
		s.names.digests[ref] = digest
	}
	return nil
}

// writeFiles lays a case's files out: http/ and git repositories where the web
// server finds them, ctx/NAME/ as named contexts, the rest as main context.
func (w *world) writeFiles(s *stage, dir string) error {
	files := map[string][]byte{}
	for name, data := range s.files {
		if utf8Text(name) {
			data = []byte(s.names.expand(string(data)))
		}
		files[name] = data
	}
	links := map[string]string{}
	modes := map[string]os.FileMode{}
	for _, d := range s.setup {
		if err := w.apply(s, d, dir, files, links, modes); err != nil {
			return fmt.Errorf("%s %v: %w", d.verb, d.args, err)
		}
	}
	roots := map[string]string{"context": filepath.Join(dir, "context")}
	split := map[string]map[string][]byte{"context": {}}
	for name, data := range files {
		root, rest := "context", name
		if inner, ok := strings.CutPrefix(name, "ctx/"); ok {
			root, rest, _ = strings.Cut(inner, "/")
		}
		if rest, ok := strings.CutPrefix(name, "http/"); ok {
			if err := writeOld(filepath.Join(w.dir, s.name, rest), data); err != nil {
				return err
			}
			continue
		}
		if split[root] == nil {
			split[root] = map[string][]byte{}
			roots[root] = filepath.Join(dir, "ctx-"+root)
		}
		split[root][rest] = data
	}
	for root, base := range roots {
		for name, data := range split[root] {
			if err := writeOld(filepath.Join(base, name), data); err != nil {
				return err
			}
		}
	}
	return s.finishContexts(roots, links, modes)
}

// finishContexts adds links and modes, makes every time old, and turns the
// folders into what the session offers.
func (s *stage) finishContexts(roots, links map[string]string, modes map[string]os.FileMode) error {
	main := roots["context"]
	if err := os.MkdirAll(main, 0o755); err != nil {
		return err
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(main, name)); err != nil {
			return err
		}
	}
	for name, mode := range modes {
		if mode.IsDir() {
			if err := os.MkdirAll(filepath.Join(main, name), 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.Chmod(filepath.Join(main, name), mode); err != nil {
			return err
		}
	}
	for root, base := range roots {
		if err := ageTree(base); err != nil {
			return err
		}
		fs, err := fsutil.NewFS(base)
		if err != nil {
			return err
		}
		s.mounts[root] = fs
	}
	s.mounts["dockerfile"] = s.mounts["context"]
	return nil
}

// apply carries out one line of setup; the verbs are in testdata/README.md.
func (w *world) apply(s *stage, d directive, dir string, files map[string][]byte, links map[string]string, modes map[string]os.FileMode) error {
	switch d.verb {
	case "crlf":
		files[d.args[0]] = bytes.ReplaceAll(files[d.args[0]], []byte("\n"), []byte("\r\n"))
	case "bom":
		files[d.args[0]] = append([]byte("\xef\xbb\xbf"), files[d.args[0]]...)
	case "symlink":
		links[d.args[1]] = d.args[0]
	case "mkdir":
		modes[d.args[0]] = os.ModeDir
	case "chmod":
		mode, err := strconv.ParseUint(d.args[0], 8, 32)
		if err != nil {
			return err
		}
		modes[d.args[1]] = os.FileMode(mode)
	case "tar":
		return packInto(files, d.args[0], d.args[1], !slices.ContainsFunc(s.setup, func(o directive) bool {
			return o.verb == "tar" && o.args[0] != d.args[0] && o.args[1] == d.args[1] && o.args[0] > d.args[0]
		}))
	case "git":
		inner := under(files, d.args[1])
		for name := range inner {
			delete(files, d.args[1]+"/"+name)
		}
		return gitRepo(filepath.Join(w.dir, "git", s.name, d.args[0]), filepath.Join(dir, "worktree"), inner)
	case "secret":
		s.secrets[d.args[0]] = []byte(d.args[1])
	case "ssh":
		s.sshKey = filepath.Join(dir, "ssh-key")
		return writeKey(s.sshKey)
	case "oci":
		return s.addStore(filepath.Join(dir, "oci-"+d.args[0]), d.args[0], w.images[d.args[1]])
	case "image", "no-epoch":
	default:
		return fmt.Errorf("unknown setup directive")
	}
	return nil
}

func (s *stage) addStore(dir, name string, image remote.Taggable) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(image.(v1.ImageIndex)); err != nil {
		return err
	}
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return err
	}
	s.stores[name] = store
	return nil
}

// attachables is what the client's session serves to a build of this case.
func (s *stage) attachables(output io.WriteCloser) ([]session.Attachable, error) {
	all := []session.Attachable{
		filesync.NewFSSyncProvider(filesync.StaticDirSource(s.mounts)),
		secretsprovider.FromMap(s.secrets),
		filesync.NewFSSyncTarget(filesync.WithFSSync(0, func(map[string]string) (io.WriteCloser, error) {
			return output, nil
		})),
	}
	if s.sshKey != "" {
		agent, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{Paths: []string{s.sshKey}}})
		if err != nil {
			return nil, err
		}
		all = append(all, agent)
	}
	if len(s.stores) > 0 {
		stores := map[string]content.Store{}
		for name, store := range s.stores {
			stores["oci:"+name] = store
		}
		all = append(all, sessioncontent.NewAttachable(stores))
	}
	return all, nil
}

func packInto(files map[string][]byte, name, from string, last bool) error {
	inner := under(files, from)
	if last {
		for n := range inner {
			delete(files, from+"/"+n)
		}
	}
	data, err := tarOf(inner)
	if err != nil {
		return err
	}
	if strings.HasSuffix(name, ".gz") {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		if _, err := z.Write(data); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		data = buf.Bytes()
	}
	files[name] = data
	return nil
}

// gitRepo makes a bare repository with one commit on main, tagged v1, whose id
// depends on its content alone.
func gitRepo(bare, tree string, files map[string][]byte) error {
	for name, data := range files {
		if err := writeOld(filepath.Join(tree, name), data); err != nil {
			return err
		}
	}
	date := strconv.FormatInt(oldTime.Unix(), 10) + " +0000"
	run := func(args ...string) error {
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=p", "GIT_AUTHOR_EMAIL=p@example.com", "GIT_AUTHOR_DATE="+date,
			"GIT_COMMITTER_NAME=p", "GIT_COMMITTER_EMAIL=p@example.com", "GIT_COMMITTER_DATE="+date)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
		return nil
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", tree},
		{"-C", tree, "add", "."},
		{"-C", tree, "commit", "-q", "-m", "parity"},
		{"-C", tree, "tag", "v1"},
		{"clone", "-q", "--bare", tree, bare},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	return nil
}

func writeKey(file string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "parity")
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

func writeOld(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return err
	}
	return os.Chtimes(file, oldTime, oldTime)
}

// ageTree makes everything below dir as old as the base images.
func ageTree(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeSymlink == 0 {
			all = append(all, p)
		}
		return err
	})
	for _, p := range slices.Backward(all) {
		if err := os.Chtimes(p, oldTime, oldTime); err != nil {
			return err
		}
	}
	return err
}

// utf8Text says whether placeholders are looked for in a file.
func utf8Text(name string) bool { return !strings.HasSuffix(name, ".tar") }

func sha256Of(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// readTar returns the regular files of a tar stream.
func readTar(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
