package tests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
)

// TestNoRequests builds once with each way to name an image, and again on a
// daemon that has forgotten its connections, and has no reason to make any.
func TestNoRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.byImage = true
	digest := r.push(t, "pinned:1", busybox(t, "pinned"))
	onbuild := busybox(t, "onbuild", testimage.Config(onbuildCopy))
	r.push(t, "onbuild:1", onbuild)
	ways := map[string]testengine.BuildOpt{
		"from":     {Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo from")},
		"digest":   {Dockerfile: r.dockerfile("", "FROM REG/pinned:1@"+digest, "RUN echo digest")},
		"copy":     {Dockerfile: r.dockerfile("", "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /r")},
		"mount":    {Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN --mount=from=REG/pinned:1,target=/m cat /m/etc/release")},
		"onbuild":  {Dockerfile: r.dockerfile("", "FROM REG/onbuild:1", "RUN echo onbuild"), Files: map[string]string{"f": "x"}},
		"arg":      {Dockerfile: r.dockerfile("", "ARG TAG=none", "FROM REG/alpine:$TAG", "RUN echo arg"), Opts: map[string]string{"build-arg:TAG": "3.20"}},
		"five":     {Dockerfile: r.dockerfile("", r.bases(t, 5)...)},
		"platform": {Dockerfile: r.dockerfile("", "FROM --platform=linux/amd64 REG/alpine:3.20", "RUN echo platform")},
		"named context": {
			Dockerfile:    r.dockerfile("", "FROM base", "RUN echo context"),
			NamedContexts: map[string]string{"base": "docker-image://" + r.reg.Ref("alpine:3.20")},
		},
		"check":   {Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo check"), Opts: map[string]string{"requestid": "frontend.lint"}},
		"outline": {Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo outline"), Opts: map[string]string{"requestid": "frontend.outline"}},
	}
	for _, opt := range ways {
		r.build(t, opt)
	}
	r.cold(t)
	for name, opt := range ways {
		t.Run(name, func(t *testing.T) {
			r.build(t, opt)
			r.wantNoRequests(t)
			r.sameDefinitions(t, opt)
		})
	}
}

// TestMovedTag: what is remembered is used until the user asks for news.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	release := func(opts map[string]string) (string, *testengine.Result) {
		export, dir := testengine.ExportLocal(t)
		res := r.build(t, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /"),
			Opts:       opts, Exports: []client.ExportEntry{export},
		})
		dt, err := os.ReadFile(filepath.Join(dir, "release"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(dt)), res
	}
	if got, _ := release(nil); got != "3.20" {
		t.Fatalf("first build has %q", got)
	}
	r.push(t, "alpine:3.20", busybox(t, "moved"))
	got, res := release(nil)
	if got != "3.20" {
		t.Errorf("without --pull: %q, want the remembered 3.20", got)
	}
	line(t, res, "alpine:3.20 from memory, ")
	pull := map[string]string{"image-resolve-mode": "pull"}
	if got, res = release(pull); got != "moved" {
		t.Errorf("with --pull: %q, want moved", got)
	}
	line(t, res, "alpine:3.20 from registry")
	r.cold(t)
	if got, _ = release(nil); got != "moved" {
		t.Errorf("after --pull: %q, want moved", got)
	}
	r.wantNoRequests(t)
}

// TestLintThenBuild: a lint leaves metadata without layers behind. Six builds
// that find it so at the same moment must all work.
func TestLintThenBuild(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, worker testengine.Worker) {
		r := newRig(t, testengine.Config{Worker: worker})
		r.build(t, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN true"),
			Opts:       map[string]string{"requestid": "frontend.lint"},
		})
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				res, err := r.tryBuild(t, testengine.BuildOpt{
					Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", fmt.Sprintf("RUN echo %d", i)),
				})
				if err != nil {
					t.Errorf("build %d: %v\n%s", i, err, res)
				}
			})
		}
		wg.Wait()
		r.cold(t)
		r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo 3")})
		r.wantNoRequests(t)
	})
}

// prune removes an image, its layers and those of steps, but not what is
// remembered, as garbage collection may. The daemon lets go of an image's
// metadata only when no build is running any more, which it may notice a moment
// after the build has returned.
func (r *rig) prune(t *testing.T, repo, manifest string) {
	t.Helper()
	c := r.Client(t)
	_, hex, _ := strings.Cut(manifest, ":")
	await.Until(t, repo+" is gone from the daemon", func() (string, bool) {
		for _, filter := range []string{`description~="mount / from exec"`, fmt.Sprintf(`description~="pulled from %s"`, r.reg.Ref(repo))} {
			if err := c.Prune(t.Context(), nil, client.PruneAll, client.WithFilter([]string{filter})); err != nil {
				t.Fatal(err)
			}
		}
		left, err := filepath.Glob(filepath.Join(r.Root(), "*", "content", "blobs", "sha256", hex))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(left, "\n"), len(left) == 0
	})
}

// TestContentGone: the name is remembered, its content is not here any more.
func TestContentGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	first := r.push(t, "gone:1", busybox(t, "gone"))
	opt := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/gone:1", "RUN echo gone")}
	r.build(t, opt)
	r.push(t, "gone:1", busybox(t, "moved on"))

	t.Run("registry up", func(t *testing.T) {
		r.prune(t, "gone", first)
		r.cold(t)
		res := r.build(t, opt)
		line(t, res, "gone:1 from registry, by the digest remembered ")
		for _, q := range r.requests() {
			if strings.Contains(q, "gone:1 ") {
				t.Errorf("the tag was asked for: %s", q)
			}
		}
	})
	t.Run("registry down", func(t *testing.T) {
		r.prune(t, "gone", first)
		r.reg.Stop()
		r.cold(t)
		_, err := r.tryBuild(t, opt)
		wantError(t, err, "gone:1 was resolved to "+first, "its content is gone from this builder and the registry could not give it", "connection refused")
		if err := r.reg.Start(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("deleted from the registry", func(t *testing.T) {
		if err := r.reg.Delete("gone@" + first); err != nil {
			t.Fatal(err)
		}
		r.prune(t, "gone", first)
		r.cold(t)
		_, err := r.tryBuild(t, opt)
		wantError(t, err, "gone:1 was resolved to "+first, "gone from this builder and from the registry: build with --pull")
		opt.Opts = map[string]string{"image-resolve-mode": "pull"}
		r.build(t, opt)
	})
}

// TestMissingPlatform: the index that is remembered has no entry for the
// platform asked for, the one that the registry has by now does.
func TestMissingPlatform(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	index := func(platforms ...string) {
		idx, err := testimage.Index(platforms)
		if err != nil {
			t.Fatal(err)
		}
		r.push(t, "multi:1", idx)
	}
	build := func(platform string) (*testengine.Result, error) {
		return r.tryBuild(t, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM REG/multi:1", "COPY f /"), Files: map[string]string{"f": "x"},
			Opts: map[string]string{"platform": platform},
		})
	}
	index("linux/amd64", "linux/arm64")
	if res, err := build("linux/amd64"); err != nil {
		t.Fatalf("%v\n%s", err, res)
	}
	_, err := build("linux/riscv64")
	wantError(t, err, "no match for platform in manifest")

	index("linux/amd64", "linux/arm64", "linux/riscv64")
	for _, p := range []string{"linux/riscv64", "linux/amd64", "linux/arm64"} {
		if res, err := build(p); err != nil {
			t.Fatalf("%s: %v\n%s", p, err, res)
		}
	}
	r.cold(t)
	for _, p := range []string{"linux/amd64", "linux/arm64,linux/riscv64"} {
		if res, err := build(p); err != nil {
			t.Fatalf("%s: %v\n%s", p, err, res)
		}
	}
	r.wantNoRequests(t)
}

// TestOldMemory: a month after a name was resolved, a build says so.
func TestOldMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	opt := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo old")}
	if w := r.build(t, opt).WarningText(); w != "" {
		t.Errorf("a new name warns: %s", w)
	}
	name := r.reg.Ref("alpine:3.20")
	testengine.MustRun(t.Context(), t, r.Buildkitd, opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		l, err := ledger.New(c, graph.Guard)
		if err != nil {
			return nil, err
		}
		e, ok, err := l.Read(ctx, name, "docker-image://"+name)
		if err != nil || !ok {
			return nil, fmt.Errorf("read: %v, %w", ok, err)
		}
		e.Image.Resolved = e.Image.Resolved.AddDate(0, 0, -45)
		return gateway.NewResult(), l.Write(ctx, name, e)
	})
	res := r.build(t, opt)
	line(t, res, "alpine:3.20 from memory, 6 weeks old")
	if w, want := res.WarningText(), name+" was resolved 6 weeks ago: build with --pull to ask the registry again\n"; w != want {
		t.Errorf("warning is %q, want %q", w, want)
	}
	opt.Opts = map[string]string{"image-resolve-mode": "pull"}
	r.build(t, opt)
	opt.Opts = nil
	if w := r.build(t, opt).WarningText(); w != "" {
		t.Errorf("after --pull: %s", w)
	}
}
