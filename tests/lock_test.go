package tests

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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

// in is the same daemon, used in another folder.
func (l *lockRig) in(t *testing.T) *lockRig {
	t.Helper()
	return &lockRig{rig: l.rig, CLI: l.CLI.In(t)}
}

// beside is another daemon with the same registry, used in a folder with the
// given files.
func (l *lockRig) beside(t *testing.T, files map[string]string) *lockRig {
	t.Helper()
	d := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{l.reg.Host()}})
	other := &lockRig{rig: &rig{Buildkitd: d, reg: l.reg, frontend: l.frontend}, CLI: d.CLI(t)}
	other.CLI.Write(t, files)
	return other
}

// folder returns the files of the folder of l.
func (l *lockRig) folder(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{"Dockerfile": l.CLI.Read(t, "Dockerfile"), "Dockerfile.lock": l.CLI.Read(t, "Dockerfile.lock")}
}

// bake builds several targets in one command: their fields in a Bakefile, by
// name.
func (l *lockRig) bake(t *testing.T, targets map[string]map[string]any, flags ...string) string {
	t.Helper()
	file := map[string]any{"target": targets, "group": map[string]any{"default": map[string]any{"targets": slices.Sorted(maps.Keys(targets))}}}
	dt, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	l.CLI.Write(t, map[string]string{"docker-bake.json": string(dt)})
	return l.MustBuildx(t, append([]string{"bake", "--allow=fs=*"}, flags...)...)
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

// TestLockMovedTag is the life of a lock: written, held to whatever else has its
// name by now, found stale, and brought up to date.
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

	moved := l.push(t, "alpine:3.20", busybox(t, "moved"))
	unlocked := l.in(t)
	unlocked.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	if got := unlocked.out(t, "release"); got != "moved" {
		t.Fatalf("without the lock: release %q", got)
	}
	if got := l.out(t, "release", "--pull"); got != "3.20" {
		t.Errorf("the tag has moved, and memory has another image: release %q", got)
	}
	named := l.in(t)
	named.CLI.Write(t, map[string]string{"f": "named"})
	named.write(t, "FROM scratch", "COPY f /etc/release")
	named.MustBuildx(t, "build", "--build-arg", "LOCALFRONT_NAME="+l.reg.Ref("alpine:3.20"), ".")
	wantLine(t, l.MustBuildx(t, "build", "-o", "out", "."), "is passed over")
	if got := strings.TrimSpace(l.CLI.Read(t, "out/release")); got != "3.20" {
		t.Errorf("a named result has the name: release %q", got)
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
	for _, command := range recipes(t) {
		wantLine(t, l.MustBuildx(t, strings.Fields(command)...), "Dockerfile.lock")
	}
	if got := l.out(t, "release"); got != "moved" {
		t.Errorf("after update: release %q", got)
	}
	t.Run("locked", func(t *testing.T) { lockedMendsItself(t, l.in(t)) })
}

// recipes are the commands that docs/lockfile.md gives for CI, without "docker
// buildx".
func recipes(t *testing.T) (commands []string) {
	t.Helper()
	root, err := testimage.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "lockfile.md"))
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(page), "```yaml\n") {
		text, _, _ := strings.Cut(block, "\n```")
		for line := range strings.Lines(text) {
			_, command, ok := strings.Cut(strings.TrimSpace(line), " docker buildx ")
			if ok && i > 0 && !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	if len(commands) == 0 {
		t.Error("docs/lockfile.md has no recipes")
	}
	return commands
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

// lockedMendsItself: what the error says to run mends it.
func lockedMendsItself(t *testing.T, l *lockRig) {
	l.write(t, "ARG V=none", "FROM REG/alpine:3.20 AS a", "FROM REG/other:$V", "COPY --from=a /etc/release /r")
	out, err := l.Buildx(t, "build", "--build-arg", "V=1", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
	if err == nil {
		t.Fatal("it was built")
	}
	_, rest, ok := strings.Cut(out, "locked is set and Dockerfile.lock, which does not exist, does not pin ")
	if !ok {
		t.Fatalf("another error:\n%s", out)
	}
	for _, want := range []string{"other:1 (line 4)", "alpine:3.20 (line 3), built on this builder"} {
		wantLine(t, rest, want)
	}
	// What is missing can be added; what a build was named, by its name only.
	_, commands, _ := strings.Cut(strings.SplitN(rest, "\n", 2)[0], ": docker ")
	add, named, _ := strings.Cut(commands, "; nor ")
	l.MustBuildx(t, strings.Fields(add)...)
	_, named, _ = strings.Cut(named, ": docker ")
	l.MustBuildx(t, strings.Fields(named)...)
	l.MustBuildx(t, "build", "--build-arg", "V=1", "--build-arg", "LOCALFRONT_LOCKED=1", ".")
}

// TestLockRequests counts: none when warm, by digest only when cold, and none
// without a network. A registry that gives other bytes under a digest gives
// nothing.
func TestLockRequests(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM REG/alpine:3.20", "RUN echo hello")
	l.lock(t, "update")
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

	cold := l.beside(t, l.folder(t))
	l.reg.Reset()
	cold.MustBuildx(t, "build", ".")
	if tags := cold.byTag(); len(tags) > 0 || len(cold.requests()) == 0 {
		t.Errorf("asked for by tag: %q; of all requests %q", tags, cold.requests())
	}
	digest := l.push(t, "rotten:1", busybox(t, "rotten"))
	cold.write(t, "FROM REG/rotten:1")
	cold.CLI.Write(t, map[string]string{"Dockerfile.lock": "version = 1\n[image.\"" + l.reg.Ref("rotten:1") + "\"]\ndigest = \"" + digest + "\"\n"})
	l.reg.SetFaults("rotten", testregistry.Fault{Kinds: []testregistry.Kind{testregistry.Manifest, testregistry.Blob}, Corrupt: true})
	defer l.reg.ClearFaults()
	if out, err := cold.Buildx(t, "build", "."); err == nil || !strings.Contains(out, "unexpected commit digest") {
		t.Errorf("other bytes under the digest: error %v\n%s", err, out)
	}
}

// TestLockIsWritten, of everything that a Dockerfile names and of nothing else,
// short and good to read.
func TestLockIsWritten(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	for name, f := range map[string]func(*testing.T, *lockRig){
		"everything": lockEverything, "services": lockOfServices, "frontend and scanner": lockTools,
	} {
		t.Run(name, func(t *testing.T) { f(t, l.in(t)) })
	}
}

// lockEverything: ten bases, three platforms, ARG, COPY --from, RUN --mount,
// ONBUILD.
func lockEverything(t *testing.T, l *lockRig) {
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

// lockOfServices: short, and good to read.
func lockOfServices(t *testing.T, l *lockRig) {
	l.CLI.Write(t, map[string]string{"main.go": "package main\n"})
	for _, name := range []string{"golang:1.26-alpine", "distroless/static:nonroot", "certs:1", "node:24-slim", "uv:0.9", "python:3.14-slim"} {
		l.push(t, name, busybox(t, name))
	}
	targets := map[string]map[string]any{}
	for name, lines := range services {
		l.CLI.Write(t, map[string]string{name + ".Dockerfile": l.dockerfile("", lines...)})
		targets[name] = map[string]any{"dockerfile": name + ".Dockerfile"}
	}
	l.bake(t, targets, "--set=*.args.LOCALFRONT_LOCK=update", "--set=*.output=.")
	for name := range services {
		if text := l.CLI.Read(t, name+".Dockerfile.lock"); len(text) >= 1024 {
			t.Errorf("%s: %d bytes:\n%s", name, len(text), text)
		}
	}
	l.bake(t, targets, "--set=*.args.LOCALFRONT_LOCKED=1")
}

// lockTools: the frontend and the SBOM scanner, by tag, are in the lock. The
// scanner is held to it; of the frontend lock.check gives the line to paste.
func lockTools(t *testing.T, l *lockRig) {
	scanner := func(text string) {
		l.push(t, "scanner:1", busybox(t, text, testimage.File("/scan.sh", strings.ReplaceAll(scanned, "found", text)), testimage.Config(func(c *v1.ConfigFile) {
			c.Config.Entrypoint, c.Config.Cmd = []string{"sh", "/scan.sh"}, nil
		})))
	}
	scanner("first")
	tag, digest, _ := strings.Cut(l.frontend, "@")
	dockerfile := func(syntax string) map[string]string {
		return map[string]string{"Dockerfile": "# syntax=" + syntax + " locked\nFROM " + l.reg.Ref("alpine:3.20") + "\nCOPY added /added\n", "added": "added"}
	}
	l.CLI.Write(t, dockerfile(tag))
	sbom := "--attest=type=sbom,generator=" + l.reg.Ref("scanner:1")
	text, _ := l.lock(t, "update", sbom)
	for _, want := range []string{tag + "\"]\ndigest = \"" + digest, l.reg.Ref("scanner:1"), l.reg.Ref("alpine:3.20")} {
		wantLine(t, text, want)
	}
	scanner("second")
	check, err := l.Buildx(t, "build", sbom, "--call=lock.check", ".")
	if err == nil {
		t.Error("lock.check of a stale lock succeeded")
	}
	wantLine(t, check, "3 pins, 0 missing, 1 stale, 0 unused")
	_, line, _ := strings.Cut(check, "\npin the frontend as well: # syntax=")
	line, _, _ = strings.Cut(line, "\n")
	if want := l.frontend + " locked"; line != want {
		t.Fatalf("the line to paste is %q, want %q", line, want)
	}
	l.CLI.Write(t, dockerfile(strings.TrimSuffix(line, " locked")))
	l.MustBuildx(t, "build", sbom, "-o", "out", ".")
	wantLine(t, l.CLI.Read(t, "out/sbom.spdx.json"), "first 3.20 added")
}

// TestLockIsReadBesideTheDockerfile, wherever that is, and nowhere else.
func TestLockIsReadBesideTheDockerfile(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	l.write(t, "FROM scratch", "COPY --from=REG/alpine:3.20 /etc/release /release")
	l.lock(t, "update")
	l.push(t, "alpine:3.20", busybox(t, "moved"))
	both := l.folder(t)
	t.Run("in folders", func(t *testing.T) { lockInFolders(t, l.in(t), both) })
	t.Run("elsewhere", func(t *testing.T) { lockElsewhere(t, l.in(t), both) })
	t.Run("unreadable", func(t *testing.T) { unreadableLocks(t, l, both["Dockerfile"]) })
}

// released fails unless each target was built on the given release.
func (l *lockRig) released(t *testing.T, want map[string]string) {
	t.Helper()
	for name, release := range want {
		if got := strings.TrimSpace(l.CLI.Read(t, name+"/release")); got != release {
			t.Errorf("%s: release %q, want %q", name, got, release)
		}
	}
}

func lockInFolders(t *testing.T, l *lockRig, both map[string]string) {
	df, text := both["Dockerfile"], both["Dockerfile.lock"]
	targets := map[string]map[string]any{}
	for name, files := range map[string]map[string]string{
		"own":         {"sub/Other.Dockerfile": df, "sub/Other.Dockerfile.lock": text},
		"folder's":    {"sub/Other.Dockerfile": df, "sub/Dockerfile.lock": text},
		"other's":     {"sub/Other.Dockerfile": df, "Dockerfile.lock": text},
		"ignored":     {"Dockerfile": df, "Dockerfile.lock": text, ".dockerignore": "*\n"},
		"own ignored": {"Dockerfile": df, "Dockerfile.lock": text, "Dockerfile.dockerignore": "*\n"},
	} {
		dockerfile := "Dockerfile"
		for file, text := range files {
			l.CLI.Write(t, map[string]string{filepath.Join(name, file): text})
			if strings.HasSuffix(file, "Other.Dockerfile") {
				dockerfile = file
			}
		}
		target := strings.NewReplacer(" ", "-", "'", "").Replace(name)
		targets[target] = map[string]any{"context": name, "dockerfile": dockerfile, "output": []string{"out/" + target}}
	}
	l.bake(t, targets)
	l.released(t, map[string]string{"out/own": "3.20", "out/folders": "3.20", "out/others": "moved", "out/ignored": "3.20", "out/own-ignored": "3.20"})
}

// archive returns a tar of files.
func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// lockElsewhere: a Dockerfile that is no file of the user's machine, or no file
// at all.
func lockElsewhere(t *testing.T, l *lockRig, both map[string]string) {
	repos := t.TempDir()
	const bakefile = `target "default" { output = ["input"] }`
	commitFiles(t, filepath.Join(repos, "ctx.git"), map[string]string{
		"Dockerfile": both["Dockerfile"], "Dockerfile.lock": both["Dockerfile.lock"], "docker-bake.hcl": bakefile,
		"sub/Dockerfile": both["Dockerfile"], "sub/Dockerfile.lock": both["Dockerfile.lock"], "none/Dockerfile": both["Dockerfile"],
	})
	w := newWeb(t, repos)
	w.put("/ctx.tar", archive(t, both))
	w.put("/Dockerfile", both["Dockerfile"])
	w.put("/Dockerfile.lock", both["Dockerfile.lock"])
	git := w.URL + "/git/ctx.git#main"
	target := func(context, output string) map[string]any {
		return map[string]any{"context": context, "output": []string{output}}
	}
	l.bake(t, map[string]map[string]any{
		"git": target(git, "git"), "folder": target(git+":sub", "folder"), "none": target(git+":none", "none"),
		"archive": target(w.URL+"/ctx.tar", "archive"), "file": target(w.URL+"/Dockerfile", "file"),
	})
	// A Bakefile that is there itself: the Dockerfile is an input of the build.
	l.MustBuildx(t, "bake", "--allow=fs=*", git)
	l.released(t, map[string]string{"git": "3.20", "folder": "3.20", "none": "moved", "archive": "3.20", "file": "moved", "input": "3.20"})

	// On the standard input: with all that is in the archive, or by itself.
	l.CLI.Write(t, both)
	l.Stdin = archive(t, both)
	l.MustBuildx(t, "build", "-o", "stdin", "-")
	l.Stdin = both["Dockerfile"]
	l.MustBuildx(t, "build", "-o", "alone", "-f", "-", ".")
	l.Stdin = ""
	l.MustBuildx(t, "build", "-o", "fetched", "-f", w.URL+"/Dockerfile", ".")
	// A Dockerfile here for a context elsewhere.
	l.MustBuildx(t, "build", "-o", "here", "-f", filepath.Join(l.Dir, "Dockerfile"), w.URL+"/git/ctx.git#main:none")
	l.released(t, map[string]string{"stdin": "3.20", "alone": "moved", "fetched": "moved", "here": "3.20"})
}

func unreadableLocks(t *testing.T, l *lockRig, df string) {
	fails := func(t *testing.T, prepare func(lock string) error, want ...string) {
		t.Helper()
		at := l.CLI.In(t)
		at.Write(t, map[string]string{"Dockerfile": df})
		if err := prepare(filepath.Join(at.Dir, "Dockerfile.lock")); err != nil {
			t.Fatal(err)
		}
		out, err := at.Buildx(t, "build", ".")
		if err == nil {
			t.Error("it was built")
		}
		for _, text := range want {
			wantLine(t, out, text)
		}
	}
	fails(t, func(lock string) error { return os.Symlink("../../../../../../etc/hostname", lock) }, "Dockerfile.lock: it is a symbolic link to")
	fails(t, func(lock string) error { return os.MkdirAll(lock, 0o700) }, "Dockerfile.lock: it is a directory")
	fails(t, func(lock string) error { return os.WriteFile(lock, []byte("version = 1\n<<<<<<< HEAD\n"), 0o600) },
		"Dockerfile.lock:2: merge conflict markers", "   2 | >>> <<<<<<< HEAD\n")
}

// web is a server of files that change, and of repositories.
type web struct {
	*httptest.Server
	requests atomic.Int64
	files    sync.Map // by path
}

func newWeb(t *testing.T, repos string) *web {
	t.Helper()
	w := &web{}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", &cgi.Handler{
		Path: git, Root: "/git", Args: []string{"http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1"},
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		text, ok := w.files.Load(r.URL.Path)
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write([]byte(text.(string)))
	})
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

// put makes a file of the server.
func (w *web) put(path, text string) { w.files.Store(path, text) }

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

// TestLockRemotes: an image, what ADD takes from a server, and what it takes from
// a repository, all of which move on. localfront is held to the lock, and the
// official frontend to the policy that is made of it.
func TestLockRemotes(t *testing.T) {
	t.Parallel()
	l := newLockRig(t)
	repos := t.TempDir()
	w := newWeb(t, repos)
	move := func(text string) {
		w.put("/tool", text)
		commitFiles(t, filepath.Join(repos, "src.git"), map[string]string{"dir/file": text})
		l.push(t, "alpine:3.20", busybox(t, text))
	}
	built := func(t *testing.T, l *lockRig) {
		t.Helper()
		l.MustBuildx(t, "build", "-o", "out", ".")
		for _, file := range []string{"out/tool", "out/src/file", "out/release"} {
			if got := strings.TrimSpace(l.CLI.Read(t, file)); got != "one" {
				t.Errorf("%s has %q, want what was locked", file, got)
			}
		}
	}
	move("one")
	l.write(t, "FROM scratch", "ADD "+w.URL+"/tool /tool", "ADD "+w.URL+"/git/src.git#main:dir /src/", "COPY --from=REG/alpine:3.20 /etc/release /release")
	text, said := l.lock(t, "update")
	for _, want := range []string{"[http.\"" + w.URL + "/tool\"]", "[git.\"" + w.URL + "/git/src.git#main\"]\ncommit = "} {
		wantLine(t, text, want)
	}
	wantLine(t, said, "/tool: new, sha256:")
	built(t, l)

	move("two")
	l.cold(t)
	before := w.requests.Load()
	built(t, l)
	if n := w.requests.Load() - before; n > 0 {
		t.Errorf("%d requests of a warm locked build, want none", n)
	}

	policy := l.MustBuildx(t, "build", "--progress=quiet", "--call=lock.policy", ".")
	i, j := strings.Index(policy, "{"), strings.LastIndex(policy, "}")
	if i < 0 || j < i {
		t.Fatalf("no policy:\n%s", policy)
	}
	official := l.in(t)
	official.Env = append(slices.Clone(official.Env), "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY="+filepath.Join(official.Dir, "policy.json"))
	_, df, _ := strings.Cut(l.CLI.Read(t, "Dockerfile"), "\n") // without the syntax line
	official.CLI.Write(t, map[string]string{"Dockerfile": df, "policy.json": policy[i : j+1]})
	built(t, official)

	if now, _ := l.lock(t, "update"); linesChanged(text, now) != 3 {
		t.Errorf("update of all three:\n%s\n%s", text, now)
	}
}
