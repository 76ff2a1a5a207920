package tests

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/localfront/frontend"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// frontendRepo is where testengine pushes localfront. Its requests are
// BuildKit's own and counted apart.
const frontendRepo = "org/localfront"

// rig is a daemon, a registry and localfront in it.
type rig struct {
	*testengine.Buildkitd
	reg      *testregistry.Registry
	frontend string // localfront, pinned by digest
	byImage  bool   // build by its image always, see tryBuild
}

// newRig starts a daemon of the given kind beside a registry that holds
// localfront and alpine:3.20.
func newRig(t *testing.T, config testengine.Config) *rig {
	t.Helper()
	reg := testregistry.New(t)
	r := &rig{reg: reg, frontend: testengine.PushLocalfront(t, reg)}
	r.push(t, "alpine:3.20", busybox(t, "3.20"))
	config.Insecure = append(config.Insecure, reg.Host())
	r.Buildkitd = testengine.StartBuildkitd(t, config)
	return r
}

// busybox is a base image whose release differs with text.
func busybox(t *testing.T, text string, opts ...testimage.Option) v1.Image {
	t.Helper()
	img, err := testimage.Busybox("linux/amd64", append(opts, testimage.Variant(text))...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// push puts an image or index into the registry and returns its digest.
func (r *rig) push(t *testing.T, name string, img remote.Taggable) string {
	t.Helper()
	digest, err := r.reg.Push(name, img)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// dockerfile is a Dockerfile that localfront builds: the syntax line with words
// behind the image, and lines in which REG stands for the registry.
func (r *rig) dockerfile(words string, lines ...string) string {
	text := strings.TrimSpace("# syntax="+r.frontend+" "+words) + "\n" + strings.Join(lines, "\n") + "\n"
	return strings.ReplaceAll(text, "REG/", r.reg.Host()+"/")
}

// tryBuild builds once, with localfront in this process where the Dockerfile is
// its own: TestMatrix does everything with the image.
func (r *rig) tryBuild(t *testing.T, opt testengine.BuildOpt) (*testengine.Result, error) {
	t.Helper()
	if r.byImage {
		return testengine.Build(t.Context(), t, r.Buildkitd, opt)
	}
	return testengine.BuildInside(t.Context(), t, r.Buildkitd, opt, r.frontend, frontend.Build)
}

// build builds once, which must succeed.
func (r *rig) build(t *testing.T, opt testengine.BuildOpt) *testengine.Result {
	t.Helper()
	res, err := r.tryBuild(t, opt)
	if err != nil {
		t.Fatalf("build: %v\n%s", err, res)
	}
	return res
}

// requests are the requests for images other than localfront's since the last
// forget, one a line.
func (r *rig) requests() []string {
	var out []string
	for _, q := range r.reg.Requests() {
		if q.Repository != frontendRepo && q.Kind != testregistry.Ping && !strings.Contains(q.Reference, frontendRepo+":") {
			out = append(out, q.String())
		}
	}
	return out
}

// wantNoRequests fails the test if any image was asked for.
func (r *rig) wantNoRequests(t *testing.T) {
	t.Helper()
	if reqs := r.requests(); len(reqs) > 0 {
		t.Errorf("%d requests, want none:\n%s", len(reqs), strings.Join(reqs, "\n"))
	}
}

// cold restarts the daemon, which empties its pool of resolvers, and forgets
// the requests so far.
func (r *rig) cold(t *testing.T) {
	t.Helper()
	r.Restart(t)
	r.reg.Reset()
}

// line returns the progress line that contains text, or fails.
func line(t *testing.T, res *testengine.Result, text string) string {
	t.Helper()
	v := res.Vertex(text)
	if v == nil {
		t.Fatalf("no progress line has %q:\n%s", text, res)
	}
	return v.Name
}

// wantError fails unless err says each of the texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not say %q:\n%v", text, err)
		}
	}
}

// bases are lines FROM n different images.
func (r *rig) bases(t *testing.T, n int) []string {
	t.Helper()
	var lines []string
	copies := []string{"FROM scratch"}
	for i := range n {
		name := fmt.Sprintf("base%d:1", i)
		r.push(t, name, busybox(t, name))
		lines = append(lines, fmt.Sprintf("FROM REG/%s AS s%d", name, i))
		copies = append(copies, fmt.Sprintf("COPY --from=s%d /etc/release /%d", i, i))
	}
	return append(lines, copies...)
}

func each(t *testing.T, f func(t *testing.T, worker testengine.Worker)) {
	t.Helper()
	for _, w := range testengine.Workers {
		t.Run(string(w), func(t *testing.T) {
			t.Parallel()
			f(t, w)
		})
	}
}

// onbuildCopy gives a base image a trigger.
func onbuildCopy(c *v1.ConfigFile) { c.Config.OnBuild = []string{"COPY f /f"} }
