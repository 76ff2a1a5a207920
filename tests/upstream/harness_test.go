package upstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/testutil/integration"
	"github.com/moby/buildkit/util/testutil/workers"
	"github.com/tonistiigi/fsutil"

	"github.com/org/localfront/internal/await"
)

// TestHarness runs each body on the OCI worker, and those on containerd's as well
// that have to do with how a worker keeps images, layers and results. With all of
// suiteEnv each is run with the official frontend too, which shows that the body
// is right.
func TestHarness(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon for each body")
	}
	ours := integration.WithMatrix("frontend", map[string]any{"localfront": localfront})
	by := ours
	if os.Getenv(suiteEnv) == "all" {
		by = integration.WithMatrix("frontend", map[string]any{"official": official, "localfront": localfront})
	}
	anywhere := integration.TestFuncs(
		testSecret, testSSH, testNamedContexts, testGitContext, testHTTPContext,
		testRun, testCacheMount, testCacheInline, testCacheLocal, testSBOM, testProvenance,
		testError, testUnplugged, testSyntaxLine,
	)
	kept := integration.TestFuncs(
		testMultiStage, testMultiPlatform, testExports, testCacheRegistry,
	)
	workers.InitOCIWorker()
	wantWorkers(t, "oci")
	integration.Run(t, anywhere, by)
	workers.InitContainerdWorker()
	wantWorkers(t, "oci containerd")
	integration.Run(t, kept, by)
	integration.Run(t, integration.TestFuncs(testOffline), ours)
}

// wantWorkers fails where the harness would pass for want of a worker. One that
// is registered and cannot start fails by itself.
func wantWorkers(t *testing.T, want string) {
	t.Helper()
	var names []string
	for _, w := range integration.List() {
		names = append(names, w.Name())
	}
	if got := strings.Join(names, " "); got != want {
		t.Fatalf("workers are %q, want %q", got, want)
	}
}

// rig is the harness's daemon and the frontend to build with.
type rig struct {
	sb       integration.Sandbox
	c        *client.Client
	frontend string
}

func newRig(t *testing.T, sb integration.Sandbox) *rig {
	t.Helper()
	c, err := client.New(sb.Context(), sb.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rig{sb: sb, c: c, frontend: sb.Value("frontend").(string)}
}

// build is one build: files are the context, the Dockerfile among them; attrs
// are the frontend's options; the rest is the client's.
type build struct {
	files map[string]string
	attrs map[string]string
	client.SolveOpt
}

// df is a build of a Dockerfile without other files.
func df(lines ...string) build {
	return build{files: map[string]string{"Dockerfile": strings.Join(lines, "\n") + "\n"}}
}

// try builds, and returns the progress: a line for each vertex, and logs.
func (r *rig) try(t *testing.T, b build) (string, error) {
	t.Helper()
	opt := b.SolveOpt
	opt.FrontendAttrs = map[string]string{}
	if opt.Frontend == "" {
		opt.Frontend = "gateway.v0"
		opt.FrontendAttrs["source"] = r.frontend
		opt.FrontendAttrs["cmdline"] = r.frontend
	}
	for k, v := range b.attrs {
		opt.FrontendAttrs[k] = v
	}
	if opt.LocalMounts == nil {
		opt.LocalMounts = map[string]fsutil.FS{}
	}
	if b.files != nil {
		dir := folder(t, b.files)
		opt.LocalMounts["context"], opt.LocalMounts["dockerfile"] = dir, dir
	}
	ch := make(chan *client.SolveStatus)
	var progress strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range ch {
			for _, v := range s.Vertexes {
				progress.WriteString(v.Name + cachedMark(v) + "\n")
			}
			for _, l := range s.Logs {
				progress.Write(l.Data)
			}
		}
	}()
	_, err := r.c.Solve(r.sb.Context(), nil, opt, ch)
	<-done
	return progress.String(), err
}

func cachedMark(v *client.Vertex) string {
	if v.Cached {
		return " CACHED"
	}
	return ""
}

// run is try for builds that have to succeed.
func (r *rig) run(t *testing.T, b build) string {
	t.Helper()
	progress, err := r.try(t, b)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	return progress
}

// output builds and returns the files that the local exporter writes.
func (r *rig) output(t *testing.T, b build) map[string]string {
	t.Helper()
	dir := t.TempDir()
	b.Exports = []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dir}}
	r.run(t, b)
	return readFolder(t, dir)
}

// forget empties the daemon's cache. Records are released in the background,
// so it may take a few tries.
func (r *rig) forget(t *testing.T) {
	t.Helper()
	await.Until(t, "an empty cache", func() (string, bool) {
		if err := r.c.Prune(r.sb.Context(), nil, client.PruneAll); err != nil {
			t.Fatal(err)
		}
		du, err := r.c.DiskUsage(r.sb.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(du), len(du) == 0
	})
}

// folder is a directory with files, by relative path.
func folder(t *testing.T, files map[string]string) fsutil.FS {
	t.Helper()
	fsys, err := fsutil.NewFS(folderPath(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func folderPath(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// want fails unless a file has exactly this text.
func want(t *testing.T, files map[string]string, name, text string) {
	t.Helper()
	if got, ok := files[name]; !ok || got != text {
		t.Errorf("%s = %q, want %q", name, got, text)
	}
}

// wantText fails unless text contains all parts.
func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}
