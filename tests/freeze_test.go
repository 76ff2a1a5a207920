package tests

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sys/unix"

	"github.com/org/localfront/frontend/freeze"
	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testengine"
)

// freezing is a client whose builds run on frozen contexts.
type freezing struct {
	gateway.Client
	freezer *freeze.Freezer
	before  func() // called before a tree is taken, if set
}

func (c *freezing) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Evaluate && c.before != nil {
		c.before()
	}
	// A source by itself is the Dockerfile being read.
	if c.freezer != nil && !req.Evaluate && len(req.Definition.GetDef()) > 2 {
		def, err := c.freezer.Freeze(ctx, req.Definition)
		if err != nil {
			return nil, err
		}
		req.Definition = def
	}
	return c.Client.Solve(ctx, req)
}

// frozen is BuildKit's Dockerfile frontend on frozen contexts. before is called
// before a tree is taken out of the cache mount.
func frozen(before func()) gateway.BuildFunc {
	return func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		f, err := freeze.New(&freezing{Client: c, before: before})
		if err != nil {
			return nil, err
		}
		return builder.Build(ctx, &freezing{Client: c, freezer: f})
	}
}

// freezeRig is a daemon to freeze on.
type freezeRig struct{ *rig }

func newFreezeRig(t *testing.T) freezeRig {
	t.Helper()
	return freezeRig{newRig(t, testengine.Config{})}
}

// frozenBuild builds in this process and returns the files of the result.
func (r freezeRig) frozenBuild(t *testing.T, opt testengine.BuildOpt) (*testengine.Result, map[string]string) {
	t.Helper()
	export := testengine.ExportOCI(t)
	opt.Exports = []client.ExportEntry{export.Entry}
	res := testengine.MustRun(t.Context(), t, r.Buildkitd, opt, frozen(nil))
	return res, testengine.Files(t, export.Image(t, ""))
}

// steps tells of the vertices that freeze which ran, in their order.
func steps(res *testengine.Result) []string {
	var ran []string
	for _, v := range res.Vertices {
		for _, step := range []string{"keep", "take", "lend"} {
			if strings.HasPrefix(v.Name, "[internal] "+step+" ") && !v.Cached && v.Completed != nil {
				ran = append(ran, step)
			}
		}
	}
	return ran
}

func wantSteps(t *testing.T, res *testengine.Result, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, steps(res)); diff != "" {
		t.Errorf("what ran to freeze (-want +got):\n%s%s", diff, res)
	}
}

// TestFreezeRebuild builds with each way to use a context. The same content
// again starts no container, other content is seen.
func TestFreezeRebuild(t *testing.T) {
	t.Parallel()
	r := newFreezeRig(t)
	named := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	main := t.TempDir()
	put(filepath.Join(main, "a"), "a1")
	put(filepath.Join(main, "b"), "b1")
	put(filepath.Join(named, "n"), "n1")
	opt := testengine.BuildOpt{
		Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20 AS made",
			"RUN --mount=target=/ctx --mount=from=extra,target=/extra cat /ctx/a /extra/n > /made",
			"FROM scratch", "COPY . /src", "COPY --from=extra n /n", "COPY --from=made /made /"),
		Context:       main,
		NamedContexts: map[string]string{"extra": named},
	}
	want := map[string]string{"src/a": "a1", "src/b": "b1", "n": "n1", "made": "a1n1"}
	check := func(files map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, files); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
	res, files := r.frozenBuild(t, opt)
	check(files)
	ran := steps(res)
	slices.Sort(ran)
	if diff := cmp.Diff([]string{"keep", "keep", "take", "take"}, ran); diff != "" {
		t.Errorf("what ran (-want +got):\n%s%s", diff, res)
	}
	if v := res.Vertex("[internal] load build context"); v == nil || len(v.Statuses) == 0 {
		t.Errorf("the transfer is not seen:\n%s", res)
	}

	res, files = r.frozenBuild(t, opt)
	check(files)
	wantSteps(t, res)
	for _, step := range []string{"RUN ", "COPY . /src", "COPY --from=extra", "COPY --from=made"} {
		if v := res.Vertex(step); v == nil || !v.Cached {
			t.Errorf("%q is not cached:\n%s", step, res)
		}
	}

	put(filepath.Join(main, "b"), "b2")
	want["src/b"] = "b2"
	res, files = r.frozenBuild(t, opt)
	check(files)
	wantSteps(t, res, "keep", "take")

	// What it was before is known as well.
	put(filepath.Join(main, "b"), "b1")
	want["src/b"] = "b1"
	res, files = r.frozenBuild(t, opt)
	check(files)
	wantSteps(t, res)
}

// TestFreezeOdd freezes one of everything that a context can hold, and compares
// the image with that of the same build on the context itself.
func TestFreezeOdd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	oddContext(t, dir)
	build := func(frontend gateway.BuildFunc) map[string]string {
		d := testengine.StartBuildkitd(t, testengine.Config{})
		export := testengine.ExportOCI(t)
		testengine.MustRun(t.Context(), t, d, testengine.BuildOpt{
			Dockerfile: "FROM scratch\nCOPY . /src\n", Context: dir,
			Exports: []client.ExportEntry{export.Entry},
		}, frontend)
		return entries(t, export.Image(t, ""))
	}
	want, got := build(builder.Build), build(frozen(nil))
	for _, name := range []string{"src/empty", "src/sparse", "src/link", "src/hard", "src/a\nb", "src/setuid", "src/fifo"} {
		if want[name] == "" {
			t.Errorf("%q is not in the image", name)
		}
	}
	// The directory's own time is that of the transfer, as chance has it.
	delete(want, "src")
	delete(got, "src")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the image (-of the context, +of the frozen one):\n%s", diff)
	}
}

func oddContext(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	err := errors.Join(
		os.MkdirAll(at("deep/"+strings.Repeat("d/", 200)), 0o755),
		os.Mkdir(at("empty"), 0o700),
		os.Chmod(at("empty"), 0o777|os.ModeSticky),
		os.WriteFile(at("plain"), []byte("plain"), 0o644),
		os.WriteFile(at("capable"), []byte("capable"), 0o755),
		unix.Lsetxattr(at("capable"), "security.capability", []byte(capability), 0),
		unix.Lsetxattr(at("plain"), "user.note", []byte("value"), 0),
		os.WriteFile(at("setuid"), []byte("setuid"), 0o755),
		os.Lchown(at("setuid"), 1000, 2000),
		os.Chmod(at("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid),
		os.Link(at("plain"), at("hard")),
		os.Symlink("/nowhere", at("link")),
		os.WriteFile(at("a\nb"), nil, 0o600),
		os.WriteFile(at("-ü \x7f\t\\"), []byte("odd"), 0o600), // names that are not UTF-8 cannot be sent
		unix.Mkfifo(at("fifo"), 0o600),
		os.WriteFile(at("sparse"), []byte("start"), 0o644),
		os.Truncate(at("sparse"), 8<<20),
		os.Chtimes(at("plain"), time.Unix(1_000_000_000, 123_456_789), time.Unix(1_000_000_000, 123_456_789)),
		os.Chtimes(at("empty"), time.Unix(1_100_000_000, 0), time.Unix(1_100_000_000, 0)),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// entries are all entries of an image by name, with all that a layer says of
// them.
func entries(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	out := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		var xattrs []string
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, h.PAXRecords[k]))
			}
		}
		out[h.Name] = fmt.Sprintf("%c %#o %d:%d %d bytes of %x, %s, to %q %q", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, sum.Sum(nil), h.ModTime.UTC().Format(time.RFC3339Nano), h.Linkname, xattrs)
	}
}

// prune removes the daemon's records that match filters, until there are none:
// it lets go of them a moment after the build that used them has returned.
func (r freezeRig) pruneAll(t *testing.T, filters ...string) {
	t.Helper()
	c := r.Client(t)
	await.Until(t, "nothing to match "+strings.Join(filters, ", "), func() (string, bool) {
		var left []string
		for _, filter := range filters {
			if err := c.Prune(t.Context(), nil, client.PruneAll, client.WithFilter([]string{filter})); err != nil {
				t.Fatal(err)
			}
			usage, err := c.DiskUsage(t.Context(), client.WithFilter([]string{filter}))
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range usage {
				left = append(left, u.Description)
			}
		}
		return strings.Join(left, "\n"), len(left) == 0
	})
}

const (
	takenRecords = `description~="from exec /freeze take"`
	cacheMounts  = "type==exec.cachemount"
)

// TestFreezeHeals: what garbage collection and others may do to what is frozen.
func TestFreezeHeals(t *testing.T) {
	t.Parallel()
	r := newFreezeRig(t)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o755), os.WriteFile(filepath.Join(dir, "d", "f"), []byte("content"), 0o644)); err != nil {
		t.Fatal(err)
	}
	build := func(t *testing.T, before func()) *testengine.Result {
		t.Helper()
		export := testengine.ExportOCI(t)
		res := testengine.MustRun(t.Context(), t, r.Buildkitd, testengine.BuildOpt{
			Dockerfile: "FROM scratch\nCOPY . /src\n", Context: dir,
			Exports: []client.ExportEntry{export.Entry},
		}, frozen(before))
		if diff := cmp.Diff(map[string]string{"src/d/f": "content"}, testengine.Files(t, export.Image(t, ""))); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		return res
	}
	wantSteps(t, build(t, nil), "keep", "take")

	t.Run("the mount is gone", func(t *testing.T) {
		r.pruneAll(t, cacheMounts)
		wantSteps(t, build(t, nil)) // nobody needs it
	})
	t.Run("both are gone", func(t *testing.T) {
		r.pruneAll(t, cacheMounts, takenRecords)
		wantSteps(t, build(t, nil), "take", "keep", "lend") // the first in vain
		wantSteps(t, build(t, nil), "take")                 // of what was left for it
		wantSteps(t, build(t, nil))
	})
	t.Run("the tree is changed", func(t *testing.T) {
		r.pruneAll(t, `description~="from exec /freeze"`)
		changed := false
		res := build(t, func() {
			for _, f := range r.inCache(t, "d/f") {
				if changed {
					return
				}
				changed = true
				if err := os.WriteFile(f, []byte("CONTENT"), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
		if !changed {
			t.Error("no tree was there to be changed")
		}
		wantSteps(t, res, "keep", "take", "keep", "lend")
		wantSteps(t, build(t, nil), "take")
	})
	t.Run("the digest and the tree are changed", func(t *testing.T) {
		r.changeDigests(t)
		taken := 0
		res := build(t, func() {
			if taken++; taken != 2 {
				return
			}
			for _, f := range r.inCache(t, "d/f") {
				if err := os.WriteFile(f, []byte("CONTENT"), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
		wantSteps(t, res, "take", "keep", "lend", "keep", "lend")
	})
}

// changeDigests changes what keep has answered, in all its results.
func (r freezeRig) changeDigests(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.Root(), "runc-overlayfs/snapshots/snapshots/*/fs/digest"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no digest is stored: %v", err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte("sha256:"+strings.Repeat("0", 64)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// inCache returns the paths of a file in the trees that wait to be taken.
func (r freezeRig) inCache(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		filepath.Join(r.Root(), "*", "snapshots", "snapshots", "*", "fs"),
	} {
		paths, err := filepath.Glob(filepath.Join(pattern, strings.Repeat("[0-9a-f]", 64), name))
		if err != nil {
			t.Error(err)
		}
		found = append(found, paths...)
	}
	return found
}

// TestFreezeAtOnce freezes the same and different contexts in builds that run
// at the same moment, while others empty cache mounts.
func TestFreezeAtOnce(t *testing.T) {
	t.Parallel()
	r := newFreezeRig(t)
	var wg sync.WaitGroup
	for i := range 6 {
		text := fmt.Sprint(i / 2) // two of each
		wg.Go(func() {
			export := testengine.ExportOCI(t)
			res, err := testengine.Run(t.Context(), t, r.Buildkitd, testengine.BuildOpt{
				Dockerfile: "FROM scratch\nCOPY . /src\n", Files: map[string]string{"f": text},
				Exports: []client.ExportEntry{export.Entry},
			}, frozen(nil))
			if err != nil {
				t.Errorf("build %d: %v\n%s", i, err, res)
				return
			}
			if got := testengine.Files(t, export.Image(t, ""))["src/f"]; got != text {
				t.Errorf("build %d has %q, want %q", i, got, text)
			}
		})
	}
	wg.Wait()
}

// TestFreezeCacheMountIsApart: BuildKit keeps the mount under the id that no
// Dockerfile can say, so one that tries gets another.
func TestFreezeCacheMountIsApart(t *testing.T) {
	t.Parallel()
	r := newFreezeRig(t)
	r.frozenBuild(t, testengine.BuildOpt{Dockerfile: "FROM scratch\nCOPY . /src\n", Files: map[string]string{"f": "x"}})
	_, files := r.frozenBuild(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20 AS look",
		"RUN --mount=type=cache,id=localfront-contexts,target=/a touch /a/mine && ls -a /a > /list",
		"FROM scratch", "COPY --from=look /list /")})
	if got, want := files["list"], ".\n..\nmine\n"; got != want {
		t.Errorf("a Dockerfile sees %q there, want %q", got, want)
	}
}
