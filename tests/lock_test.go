package tests

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// lockRig is a daemon that is used as people do: with the client, in a folder.
type lockRig struct {
	*rig
	*testengine.CLI
}

func newLockRig(t *testing.T) *lockRig {
	t.Helper()
	r := newRig(t, testengine.Config{})
	return &lockRig{rig: r, CLI: r.Buildkitd.CLI(t)}
}

// write writes a Dockerfile with localfront's syntax line.
func (l *lockRig) write(t *testing.T, lines ...string) {
	t.Helper()
	l.CLI.Write(t, map[string]string{"Dockerfile": l.dockerfile("", lines...)})
}

// lock writes the lock and returns it.
func (l *lockRig) lock(t *testing.T, mode string, flags ...string) (text, out string) {
	t.Helper()
	out = l.MustBuildx(t, append(append([]string{"build"}, flags...), "--build-arg", "LOCALFRONT_LOCK="+mode, "-o", ".", ".")...)
	return l.CLI.Read(t, "Dockerfile.lock"), out
}

// out builds into a folder and returns a file of it.
func (l *lockRig) out(t *testing.T, file string, flags ...string) string {
	t.Helper()
	l.MustBuildx(t, append(append([]string{"build"}, flags...), "-o", "out", ".")...)
	return strings.TrimSpace(l.CLI.Read(t, "out/"+file))
}

// byTag are the requests for manifests by something else than a digest.
func (l *lockRig) byTag() (out []string) {
	for _, q := range l.reg.Requests() {
		if q.Kind == testregistry.Manifest && q.Repository != frontendRepo && !strings.HasPrefix(q.Reference, "sha256:") {
			out = append(out, q.String())
		}
	}
	return out
}

// TestLockMovedTag is the life of a lock: written, held to, found stale, and
// brought up to date.
func TestLockMovedTag(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.push(t, "other:1", busybox(t, "other"))
	l.write(t, "FROM REG/alpine:3.20 AS base", "RUN true", "FROM scratch", "COPY --from=base /etc/release /release", "COPY --from=REG/other:1 /etc/release /other")
	was, said := l.lock(t, "update")
	wantLine(t, said, "alpine:3.20: new, sha256:")
	files, err := os.ReadDir(l.CLI.Dir)
	if err != nil || len(files) != 2 {
		t.Errorf("the folder has %v, want the Dockerfile and its lock", files)
	}
	if got := l.out(t, "release"); got != "3.20" {
		t.Errorf("release %q", got)
	}
	wantLine(t, l.MustBuildx(t, "build", "--call=lock.check", "."), "Dockerfile.lock: all 2 pins are used and up to date")

	moved := l.push(t, "alpine:3.20", busybox(t, "moved"))
	if got := l.out(t, "release", "--pull"); got != "3.20" {
		t.Errorf("after the tag has moved: release %q", got)
	}
	check, err := l.Buildx(t, "build", "--call=lock.check", ".")
	if err == nil {
		t.Error("lock.check of a stale lock succeeded")
	}
	for _, want := range []string{"2 pins, 0 missing, 1 stale, 0 unused", "→ " + moved, "mend it: docker build --build-arg LOCALFRONT_LOCK=update -o . ."} {
		wantLine(t, check, want)
	}
	wantLine(t, l.MustBuildx(t, "build", "--call=outdated", "."), "→ "+moved)
	now, said := l.lock(t, "update")
	wantLine(t, said, "→ "+moved)
	wantLine(t, said, "2 pins, 1 of them as before")
	if diff := linesChanged(was, now); diff != 1 {
		t.Errorf("%d lines have changed, want 1:\n%s\n%s", diff, was, now)
	}
	if got := l.out(t, "release"); got != "moved" {
		t.Errorf("after update: release %q", got)
	}
}

func linesChanged(a, b string) (n int) {
	was, now := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(was), len(now)) {
		if i >= len(was) || i >= len(now) || was[i] != now[i] {
			n++
		}
	}
	return n
}

// TestLockRequests counts: none when warm, by digest only when cold, and none
// without a network.
func TestLockRequests(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM REG/alpine:3.20", "RUN echo hello")
	text, _ := l.lock(t, "update")
	l.MustBuildx(t, "build", "--provenance=false", ".") // or its layers would not be looked for
	l.cold(t)
	l.MustBuildx(t, "build", "--provenance=false", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
	l.wantNoRequests(t)
	table := l.MustBuildx(t, "build", "--call=resolve", ".")
	wantLine(t, table, "lock")
	wantLine(t, table, "here")
	l.wantNoRequests(t)
	l.reg.Stop()
	l.cold(t)
	wantLine(t, l.MustBuildx(t, "build", "--provenance=false", "--build-arg", "LOCALFRONT_OFFLINE=1", "."), "alpine:3.20 from Dockerfile.lock")
	if err := l.reg.Start(); err != nil {
		t.Fatal(err)
	}

	other := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{l.reg.Host()}})
	cold := &lockRig{rig: &rig{Buildkitd: other, reg: l.reg, frontend: l.frontend}, CLI: other.CLI(t)}
	cold.write(t, "FROM REG/alpine:3.20", "RUN echo hello")
	cold.CLI.Write(t, map[string]string{"Dockerfile.lock": text})
	l.reg.Reset()
	cold.MustBuildx(t, "build", ".")
	if tags := cold.byTag(); len(tags) > 0 || len(cold.requests()) == 0 {
		t.Errorf("asked for by tag: %q; of all requests %q", tags, cold.requests())
	}
}

// TestLockKeepsWrongContentOut: other bytes under the digest, another image in
// memory, and a named result of the name.
func TestLockKeepsWrongContentOut(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	text, _ := l.lock(t, "update")
	if err := os.Remove(filepath.Join(l.CLI.Dir, "Dockerfile.lock")); err != nil {
		t.Fatal(err)
	}
	l.push(t, "alpine:3.20", busybox(t, "memory"))
	if got := l.out(t, "release"); got != "memory" {
		t.Fatalf("without the lock: release %q", got)
	}
	l.CLI.Write(t, map[string]string{"Dockerfile.lock": text})
	if got := l.out(t, "release"); got != "3.20" {
		t.Errorf("memory has another image: release %q", got)
	}

	named := l.CLI.In(t)
	named.Write(t, map[string]string{"Dockerfile": l.dockerfile("", "FROM scratch", "COPY f /etc/release"), "f": "named"})
	named.MustBuildx(t, "build", "--build-arg", "LOCALFRONT_NAME="+l.reg.Ref("alpine:3.20"), ".")
	out := l.MustBuildx(t, "build", "-o", "out", ".")
	wantLine(t, out, "is passed over")
	if got := strings.TrimSpace(l.CLI.Read(t, "out/release")); got != "3.20" {
		t.Errorf("a named result has the name: release %q", got)
	}

	other := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{l.reg.Host()}})
	cold := &lockRig{rig: &rig{Buildkitd: other, reg: l.reg, frontend: l.frontend}, CLI: other.CLI(t)}
	cold.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	cold.CLI.Write(t, map[string]string{"Dockerfile.lock": text})
	l.reg.SetFaults("alpine", testregistry.Fault{Kinds: []testregistry.Kind{testregistry.Manifest, testregistry.Blob}, Corrupt: true})
	defer l.reg.ClearFaults()
	if out, err := cold.Buildx(t, "build", "-o", "out", "."); err == nil {
		t.Errorf("other bytes under the digest were built:\n%s", out)
	}
}

// TestLockEverything: ten bases, three platforms, ARG, COPY --from, RUN --mount,
// ONBUILD.
func TestLockEverything(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	platforms := []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}
	lines := []string{"ARG V=none"}
	var want []string
	for i := range 10 {
		name := "base" + string(rune('0'+i))
		l.pushIndex(t, name+":1", platforms)
		want = append(want, name+":1")
		base := "REG/" + name + ":$V"
		switch i {
		case 7:
			lines = append(lines, "FROM scratch", "COPY --from=REG/"+name+":1 /etc/release /r")
		case 8:
			lines = append(lines, "FROM scratch AS m", "RUN --mount=from=REG/"+name+":1,target=/m true")
		default:
			lines = append(lines, "FROM "+base)
		}
	}
	l.pushIndex(t, "trigger:1", platforms, testimage.Config(onbuildCopy))
	lines = append(lines, "FROM REG/trigger:1", "FROM scratch")
	want = append(want, "trigger:1")
	l.CLI.Write(t, map[string]string{"f": "x"})
	l.write(t, lines...)
	flags := []string{"--platform", strings.Join(platforms, ","), "--build-arg", "V=1"}
	text, _ := l.lock(t, "update", flags...)
	for _, name := range want {
		if d, err := l.reg.Digest(name); err != nil || !strings.Contains(text, l.reg.Ref(name)+"\"]\ndigest = \""+d+"\"") {
			t.Errorf("%s is not pinned to its index %s, error %v:\n%s", name, d, err, text)
		}
	}
	if n := strings.Count(text, "\n[image."); n != len(want) {
		t.Errorf("%d entries, want %d", n, len(want))
	}
	if again, _ := l.lock(t, "update", flags...); again != text {
		t.Errorf("written again it differs:\n%s\n%s", text, again)
	}
}

// pushIndex pushes a base image for several platforms.
func (l *lockRig) pushIndex(t *testing.T, name string, platforms []string, opts ...testimage.Option) {
	t.Helper()
	idx, err := testimage.Index(platforms, append(opts, testimage.Variant(name))...)
	if err != nil {
		t.Fatal(err)
	}
	l.push(t, name, idx)
}

// TestLockedMendsItself: what the error says to run mends it.
func TestLockedMendsItself(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.push(t, "other:1", busybox(t, "other"))
	l.write(t, "ARG V=1", "FROM REG/alpine:3.20 AS a", "FROM REG/other:$V", "COPY --from=a /etc/release /r")
	out, err := l.Buildx(t, "build", "--build-arg", "V=1", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
	if err == nil {
		t.Fatal("it was built")
	}
	_, rest, ok := strings.Cut(out, "locked is set and Dockerfile.lock, which does not exist, does not pin ")
	if !ok {
		t.Fatalf("another error:\n%s", out)
	}
	for _, want := range []string{"alpine:3.20 (line 3)", "other:1 (line 4)"} {
		wantLine(t, rest, want)
	}
	_, command, _ := strings.Cut(strings.SplitN(rest, "\n", 2)[0], ": docker ")
	l.MustBuildx(t, strings.Fields(command)...)
	l.MustBuildx(t, "build", "--build-arg", "V=1", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
}

// TestLockIsReadBesideTheDockerfile, wherever that is.
func TestLockIsReadBesideTheDockerfile(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	text, _ := l.lock(t, "update")
	l.push(t, "alpine:3.20", busybox(t, "moved"))
	df := l.CLI.Read(t, "Dockerfile")
	build := func(t *testing.T, want string, files map[string]string, flags ...string) {
		t.Helper()
		at := l.CLI.In(t)
		at.Write(t, files)
		at.MustBuildx(t, append(append([]string{"build", "-o", "out"}, flags...), ".")...)
		if got := strings.TrimSpace(at.Read(t, "out/release")); got != want {
			t.Errorf("release %q, want %q", got, want)
		}
	}
	build(t, "3.20", map[string]string{"sub/Other.Dockerfile": df, "sub/Other.Dockerfile.lock": text}, "-f", "sub/Other.Dockerfile")
	build(t, "3.20", map[string]string{"sub/Other.Dockerfile": df, "sub/Dockerfile.lock": text}, "-f", "sub/Other.Dockerfile")
	build(t, "moved", map[string]string{"sub/Other.Dockerfile": df, "Dockerfile.lock": text}, "-f", "sub/Other.Dockerfile")
	build(t, "3.20", map[string]string{"Dockerfile": df, "Dockerfile.lock": text, ".dockerignore": "*\n"})
	build(t, "3.20", map[string]string{"Dockerfile": df, "Dockerfile.lock": text, "Dockerfile.dockerignore": "*\n"})

	fails := func(t *testing.T, want string, prepare func(dir string) error) {
		t.Helper()
		at := l.CLI.In(t)
		at.Write(t, map[string]string{"Dockerfile": df})
		if err := prepare(at.Dir); err != nil {
			t.Fatal(err)
		}
		out, err := at.Buildx(t, "build", ".")
		if err == nil {
			t.Error("it was built")
		}
		wantLine(t, out, want)
	}
	fails(t, "Dockerfile.lock: it is a symbolic link to", func(dir string) error {
		return os.Symlink("../../../../../../etc/hostname", filepath.Join(dir, "Dockerfile.lock"))
	})
	fails(t, "Dockerfile.lock: it is a directory", func(dir string) error {
		return os.MkdirAll(filepath.Join(dir, "Dockerfile.lock"), 0o700)
	})
	fails(t, "Dockerfile.lock:2: merge conflict markers", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "Dockerfile.lock"), []byte("version = 1\n<<<<<<< HEAD\n"), 0o600)
	})
}

// web is a server of one file that changes, and of repositories.
type web struct {
	*httptest.Server
	requests atomic.Int64
	body     atomic.Value
}

func newWeb(t *testing.T, repos string) *web {
	t.Helper()
	w := &web{}
	w.body.Store("one")
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", &cgi.Handler{
		Path: git, Root: "/git", Args: []string{"http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1"},
	})
	mux.HandleFunc("/tool", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(w.body.Load().(string))) })
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

// commitFiles makes a commit of files in a repository, which is begun if need
// be.
func commitFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q", "-b", "main")
	git("config", "uploadpack.allowReachableSHA1InWant", "true")
	git("add", "-A")
	git("commit", "-q", "-m", "x")
}

// TestLockRemotes: what ADD takes from a server and from a repository, and a
// lock in a git context.
func TestLockRemotes(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	repos := t.TempDir()
	commitFiles(t, filepath.Join(repos, "src.git"), map[string]string{"dir/file": "one"})
	w := newWeb(t, repos)
	l.write(t, "FROM scratch", "ADD "+w.URL+"/tool /tool", "ADD "+w.URL+"/git/src.git#main:dir /src/")
	text, said := l.lock(t, "update")
	for _, want := range []string{"[http.\"" + w.URL + "/tool\"]", "[git.\"" + w.URL + "/git/src.git#main\"]\ncommit = "} {
		wantLine(t, text, want)
	}
	wantLine(t, said, "/tool: new, sha256:")
	both := func(t *testing.T) string {
		return l.out(t, "tool") + " " + strings.TrimSpace(l.CLI.Read(t, "out/src/file"))
	}
	if got := both(t); got != "one one" {
		t.Errorf("built %q", got)
	}
	w.body.Store("two")
	commitFiles(t, filepath.Join(repos, "src.git"), map[string]string{"dir/file": "two"})
	l.cold(t)
	before := w.requests.Load()
	if got := both(t); got != "one one" {
		t.Errorf("after both have moved, built %q", got)
	}
	if n := w.requests.Load() - before; n > 0 {
		t.Errorf("%d requests of a warm locked build, want none", n)
	}
	l.lock(t, "update")
	if got := both(t); got != "two two" {
		t.Errorf("after update, built %q", got)
	}

	l.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	pinned, _ := l.lock(t, "update")
	commitFiles(t, filepath.Join(repos, "ctx.git"), map[string]string{"Dockerfile": l.CLI.Read(t, "Dockerfile"), "Dockerfile.lock": pinned})
	l.push(t, "alpine:3.20", busybox(t, "moved"))
	l.MustBuildx(t, "build", "-o", "git", w.URL+"/git/ctx.git#main")
	if got := strings.TrimSpace(l.CLI.Read(t, "git/release")); got != "3.20" {
		t.Errorf("from a git context, built %q", got)
	}
}

// services are three Dockerfiles as people write them.
var services = map[string][]string{
	"go": {
		"ARG GO=1.26", "FROM REG/golang:${GO}-alpine AS build", "WORKDIR /src", "COPY . .", "RUN mkdir -p /out && cp main.go /out/app",
		"FROM REG/distroless/static:nonroot", "COPY --from=build /out/app /app", "COPY --from=REG/certs:1 /etc/release /etc/certs",
	},
	"node": {
		"FROM REG/node:24-slim AS deps", "WORKDIR /app", "COPY main.go .", "RUN echo modules > node_modules",
		"FROM REG/node:24-slim", "COPY --from=deps /app /app", "CMD [\"node\"]",
	},
	"python": {
		"FROM REG/uv:0.9 AS uv", "FROM REG/python:3.14-slim", "COPY --from=uv /etc/release /uv", "RUN --mount=from=REG/certs:1,target=/certs cp /certs/etc/release /c",
	},
}

// TestLockOfServices: short, and good to read.
func TestLockOfServices(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.CLI.Write(t, map[string]string{"main.go": "package main\n"})
	for _, name := range []string{"golang:1.26-alpine", "distroless/static:nonroot", "certs:1", "node:24-slim", "uv:0.9", "python:3.14-slim"} {
		l.push(t, name, busybox(t, name))
	}
	for name, lines := range services {
		l.write(t, lines...)
		text, _ := l.lock(t, "update")
		if len(text) >= 1024 {
			t.Errorf("%s: %d bytes:\n%s", name, len(text), text)
		}
		l.MustBuildx(t, "build", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
	}
}

// TestLockPolicy holds the official frontend to the lock.
func TestLockPolicy(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	l.lock(t, "update")
	out := l.MustBuildx(t, "build", "--progress=quiet", "--call=lock.policy", ".")
	i, j := strings.Index(out, "{"), strings.LastIndex(out, "}")
	if i < 0 || j < i {
		t.Fatalf("no policy:\n%s", out)
	}
	l.push(t, "alpine:3.20", busybox(t, "moved"))
	official := l.CLI.In(t)
	official.Env = append(slices.Clone(official.Env), "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY="+filepath.Join(official.Dir, "policy.json"))
	df := "FROM scratch\nCOPY --from=" + l.reg.Ref("alpine:3.20") + " /etc/release /release\n"
	official.Write(t, map[string]string{"Dockerfile": df, "policy.json": out[i : j+1]})
	official.MustBuildx(t, "build", "-o", "out", ".")
	if got := strings.TrimSpace(official.Read(t, "out/release")); got != "3.20" {
		t.Errorf("under the policy: release %q", got)
	}
}
