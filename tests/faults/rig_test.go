package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/org/localfront/frontend"
	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// bound is how long a build may take at the very most: whatever goes wrong, the
// user has an answer by then. It leaves room for a machine that is busy.
const bound = 2 * time.Minute

// rig is a daemon, a registry with localfront, and a registry with images that
// can fail without that one.
type rig struct {
	*testengine.Buildkitd
	images   *testregistry.Registry
	frontend string // localfront, pinned by digest
	byImage  bool   // build by its image always, see build
	official string // the official frontend
}

// newRig starts a daemon. The registry of images has base:1.
func newRig(t *testing.T, config testengine.Config) *rig {
	t.Helper()
	own := testregistry.New(t)
	r := &rig{images: testregistry.New(t), byImage: *soak}
	r.official, r.frontend = testengine.PushFrontends(t, own)
	r.push(t, "base:1", "one")
	config.Insecure = append(config.Insecure, own.Host(), r.images.Host())
	r.Buildkitd = testengine.StartBuildkitd(t, config)
	return r
}

// push puts an image into the registry of images. Its /etc/release is text.
func (r *rig) push(t *testing.T, name, text string) {
	t.Helper()
	img, err := testimage.Busybox("linux/amd64", testimage.Variant(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.images.Push(name, img); err != nil {
		t.Fatal(err)
	}
}

// dockerfile is a Dockerfile with words behind the image on its syntax line, in
// which REG/ stands for the registry of images.
func (r *rig) dockerfile(words string, lines ...string) string {
	text := strings.TrimSpace("# syntax="+r.frontend+" "+words) + "\n" + strings.Join(lines, "\n") + "\n"
	return strings.ReplaceAll(text, "REG/", r.images.Host()+"/")
}

// outcome is how a build ended.
type outcome struct {
	res  *testengine.Result
	err  error
	took time.Duration
	dir  string // what was built
}

// file is the text of a file that was built.
func (o outcome) file(name string) string {
	data, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// build builds once and exports what comes out to a directory. Localfront is in
// this process, unless its container is to be struck or the soak runs.
func (r *rig) build(ctx context.Context, t *testing.T, opt testengine.BuildOpt) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("the build took longer than %s", bound))
	defer cancel()
	export, dir := testengine.ExportLocal(t)
	opt.Exports = []client.ExportEntry{export}
	start := time.Now()
	var res *testengine.Result
	var err error
	if r.byImage {
		res, err = testengine.Build(ctx, t, r.Buildkitd, opt)
	} else {
		res, err = testengine.BuildInside(ctx, t, r.Buildkitd, opt, r.frontend, frontend.Build)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return outcome{res: res, err: err, took: time.Since(start), dir: dir}
}

// mustBuild builds, and checks files of what comes out.
func (r *rig) mustBuild(t *testing.T, opt testengine.BuildOpt, files map[string]string) outcome {
	t.Helper()
	return r.build(t.Context(), t, opt).must(t, files)
}

// must fails the test unless the build succeeded with the files.
func (o outcome) must(t *testing.T, files map[string]string) outcome {
	t.Helper()
	if o.err != nil {
		t.Fatalf("build: %v\n%s", o.err, o.res)
	}
	for name, want := range files {
		if got := o.file(name); got != want {
			t.Fatalf("%s is %q, want %q\n%s", name, got, want, o.res)
		}
	}
	return o
}

// quiet waits until nothing runs for the daemon any more.
func (r *rig) quiet(t *testing.T) {
	t.Helper()
	await.Until(t, "no process of a build to be left", func() (string, bool) {
		var left []string
		for _, p := range r.Processes() {
			left = append(left, p.String())
		}
		return strings.Join(left, "\n"), len(left) == 0
	})
}

// wantError fails the test unless err says each of the texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not say %q:\n%v", text, err)
		}
	}
}
