package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/testengine"
)

// inLedger does something with the ledger as any frontend on the builder can.
func (r *rig) inLedger(t *testing.T, do func(ctx context.Context, l *ledger.Ledger) error) {
	t.Helper()
	testengine.MustRun(t.Context(), t, r.Buildkitd, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM scratch")}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		l, err := ledger.New(c, graph.Guard)
		if err != nil {
			return nil, err
		}
		return gateway.NewResult(), do(ctx, l)
	})
}

// ledgerReads are the keys that a build has read.
func ledgerReads(res *testengine.Result) (keys []string) {
	for _, name := range res.Names() {
		if key, ok := strings.CutPrefix(name, "[internal] ledger reads "); ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// poison makes the ledger lie under each of the keys: in the place of a result
// stands another, and whatever an image's name or digest is remembered as is
// another image.
func (r *rig) poison(t *testing.T, keys []string, evil digest.Digest, result string) {
	t.Helper()
	r.inLedger(t, func(ctx context.Context, l *ledger.Ledger) error {
		forged, err := l.Result(ctx, result)
		if err != nil || forged == nil {
			return fmt.Errorf("nothing to forge from: %w", err)
		}
		img := &ledger.Image{Digest: evil, Resolved: time.Now(), Platforms: map[string]ledger.Platform{"linux/amd64": {Layers: 1, Content: ledger.Here}}}
		for _, key := range keys {
			name, of := strings.CutPrefix(key, "result ")
			switch {
			case of && !strings.Contains(name, " #"): // those are further places of the same
				err = l.Expect(ctx, name).Write(ctx, *forged)
			case !strings.Contains(key, "result"):
				err = l.Write(ctx, key, ledger.Entry{Image: img})
			}
			if err != nil {
				return fmt.Errorf("poison %s: %w", key, err)
			}
		}
		return nil
	})
}

// TestLockedIsImmune: whatever the ledger says, a locked build is the same. The
// names it pins were built here as something else, memory says something else of
// them, and so does each entry that the build reads.
func TestLockedIsImmune(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.push(t, "base:evil", "evil")
	var digests []digest.Digest
	for _, name := range []string{"base:1", "base:evil"} {
		d, err := r.images.Digest(name)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest.Digest(d))
	}
	ref := r.images.Ref("base:1")
	right, evil := digests[0], digests[1]
	opt := func(words, from string) testengine.BuildOpt {
		return testengine.BuildOpt{
			Dockerfile: r.dockerfile(words, "FROM "+from+" AS b", "RUN cat /etc/release > /out", "FROM scratch", "COPY --from=b /out /out"),
			Files:      map[string]string{},
		}
	}
	locked := opt("locked", "REG/base:1")
	locked.Files["Dockerfile.lock"] = fmt.Sprintf("version = 1\n\n[image.%q]\ndigest = %q\n", ref, right)
	built := func() (digest string, read []string) {
		o := locked
		o.Exports = []client.ExportEntry{testengine.ExportOCI(t).Entry}
		o.Opts = map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1"}
		res := testengine.MustBuild(t.Context(), t, r.Buildkitd, o)
		return res.Digest(), ledgerReads(res)
	}
	// Both images are on the builder, so that nothing but the ledger decides.
	r.mustBuild(t, opt("", "REG/base:1"), map[string]string{"out": "one"})
	result := opt("name=localhost/evil", "REG/base:evil")
	result.Dockerfile = r.dockerfile("name=localhost/evil", "FROM REG/base:evil", "RUN cat /etc/release > /out")
	r.mustBuild(t, result, map[string]string{"out": "evil"})
	before, read := built()

	poisoned := []string{ref}
	r.poison(t, poisoned, evil, "localhost/evil:latest")
	o := r.mustBuild(t, opt("", "REG/base:1"), map[string]string{"out": "evil"})
	if o.res.Vertex("from memory") == nil {
		t.Errorf("what is remembered is not what misled an unlocked build:\n%s", o.res)
	}
	poisoned = append(poisoned, "result "+ref, "result "+ref+"@"+right.String(), ref+"@"+right.String(), "results")
	r.poison(t, poisoned, evil, "localhost/evil:latest")
	o = r.mustBuild(t, opt("", "REG/base:1"), map[string]string{"out": "evil"})
	if o.res.Vertex("named result") == nil {
		t.Errorf("the forged result is not what misled an unlocked build:\n%s", o.res)
	}
	// What it finds may make it look further.
	for range 3 {
		r.poison(t, read, evil, "localhost/evil:latest")
		poisoned = append(poisoned, read...)
		r.mustBuild(t, locked, map[string]string{"out": "one"})
		var after string
		if after, read = built(); after != before {
			t.Fatalf("built %s, and before the ledger was poisoned %s", after, before)
		}
	}
	if len(read) == 0 {
		t.Error("a locked build reads nothing, so this shows nothing")
	}
	for _, key := range read {
		if place, _, _ := strings.Cut(key, " #"); !slices.Contains(poisoned, place) {
			t.Errorf("%s was read, and never poisoned", key)
		}
	}
}

// TestResultGrantsNothing: a result that needed more than others may is not a
// way to get it.
func TestResultGrantsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{Args: []string{"--allow-insecure-entitlement", "network.host"}})
	r.mustBuild(t, testengine.BuildOpt{
		Dockerfile:   r.dockerfile("name=localhost/hosted", "FROM REG/base:1", "RUN --network=host echo hosted > /out"),
		Entitlements: []string{"network.host"},
	}, map[string]string{"out": "hosted"})
	use := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM localhost/hosted", "RUN true")}
	o := r.build(t.Context(), t, use)
	wantError(t, o.err, "network.host")
	use.Entitlements = []string{"network.host"}
	r.mustBuild(t, use, map[string]string{"out": "hosted"})
}

// canaries are what shall not be found, each in a way of its own to give a
// secret to a build.
var canaries = map[string]string{
	"a proxy's password":  "canary-proxy-5bd1e995",
	"a secret":            "canary-secret-9e3779b9",
	"a URL's password":    "canary-url-85ebca6b",
	"a token as an ARG":   "ghp_canaryc2b2ae3d27d4eb4f165667b19e3779f9",
	"a comment's content": "canary-comment-cc9e2d51",
	"a git token":         "canary-git-3c6ef372",
	"an ARG in a URL":     "canary-arg-a54ff53a",
	"a lock's comment":    "canary-lock-510e527f",
}

// TestNoSecretIsKept builds with secrets on a daemon with localfront and on one
// with the official frontend, and searches all that the daemons keep and say.
// localfront may leave behind nothing that the official frontend does not.
func TestNoSecretIsKept(t *testing.T) {
	t.Parallel()
	r, official := newRig(t, testengine.Config{}), newRig(t, testengine.Config{})
	official.frontend = official.official
	r.byImage, official.byImage = true, true
	ours, theirs := r.leaks(t, true), official.leaks(t, false)
	for what := range canaries {
		for where := range ours[what] {
			if !theirs[what][where] {
				t.Errorf("%s is in %s, and with the official frontend it is not", what, where)
			}
		}
		t.Logf("%s: localfront %v, official frontend %v", what, ours[what], theirs[what])
	}
	measured(t, figure{"secrets searched for in all that a builder keeps", len(canaries), "nowhere that the official frontend does not leave them", 0})
}

// canaryBuild is a build with canaries. It may fail, with an error that is
// searched as well.
type canaryBuild struct {
	opt   testengine.BuildOpt
	named bool // by localfront
	fails bool
}

// canaryBuilds are builds with all canaries, some of which only localfront knows.
func (r *rig) canaryBuilds(git string, ours bool) []canaryBuild {
	opt := func(words string, lines ...string) testengine.BuildOpt {
		return testengine.BuildOpt{
			Dockerfile: r.dockerfile(words, lines...), Files: map[string]string{"f": "f"},
			Secrets: map[string][]byte{"s": []byte(canaries["a secret"])},
			Opts: map[string]string{
				"build-arg:HTTP_PROXY": "http://user:" + canaries["a proxy's password"] + "@127.0.0.1:1",
				"build-arg:NO_PROXY":   "127.0.0.1",
				"build-arg:TOKEN":      canaries["a token as an ARG"],
				"build-arg:PART":       canaries["an ARG in a URL"],
			},
		}
	}
	file := "@" + r.images.Host() + "/v2/"
	repo := strings.Replace(git, "://", "://user:"+canaries["a git token"]+"@", 1)
	all := []canaryBuild{
		{opt: opt("", "# "+canaries["a comment's content"], "FROM REG/base:1", "RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /out", "COPY f /f"), named: true},
		{opt: opt("", "FROM REG/base:1", "ARG TOKEN", "RUN echo $TOKEN | wc -c > /out"), named: true},
		{opt: opt("", "FROM REG/base:1", "ADD http://user:"+canaries["a URL's password"]+file+" /out"), named: true},
		{opt: opt("", "FROM REG/base:1", "ADD "+repo+"#main /src"), named: true},
		{opt: opt("", "FROM REG/base:1", "ARG PART", "ADD http://user:${PART}"+file+" /out"), named: true},
		{opt: opt("", "FROM REG/base:1", "ARG PART", "ADD http://user:${PART}"+file+"nothing /out"), fails: true},
		{opt: opt("", "FROM REG/base:1", "ADD "+strings.Replace(repo, ".git", ".gone.git", 1)+" /out"), fails: true},
	}
	inGit := opt("")
	inGit.Dockerfile, inGit.Files, inGit.Opts["context"] = "", nil, repo+"#main"
	// The builder keeps what was sent last, so that has to be the same.
	last := canaryBuild{opt: inGit}
	if !ours {
		return append(all, all[0], last)
	}
	every := opt("", "FROM REG/base:1", "ARG PART", "ADD http://user:${PART}"+file+" /out",
		"ADD http://user:"+canaries["a URL's password"]+file+" /out", "ADD "+repo+"#main /src")
	every.Files["Dockerfile.lock"] = "# " + canaries["a lock's comment"] + "\nversion = 1\n"
	locked := every
	locked.Dockerfile = strings.Replace(every.Dockerfile, "\n", " locked\n", 1)
	update := every
	update.Opts = maps.Clone(every.Opts)
	update.Opts["build-arg:LOCALFRONT_LOCK"] = "update"
	return append(all, canaryBuild{opt: every}, canaryBuild{opt: locked, fails: true}, canaryBuild{opt: update}, all[0], last)
}

// canaryRepo serves a repository with a Dockerfile to whoever has the token.
func (r *rig) canaryRepo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(r.dockerfile("", "FROM REG/base:1", "COPY Dockerfile /")), 0o600))
	for _, args := range []string{"init -q -b main", "add Dockerfile", "-c user.name=x -c user.email=x@example.com commit -q -m x", "update-server-info"} {
		cmd := exec.Command("git", append([]string{"-C", dir}, strings.Fields(args)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
	}
	files := http.StripPrefix("/repo.git", http.FileServer(http.Dir(filepath.Join(dir, ".git"))))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, password, _ := req.BasicAuth(); password != canaries["a git token"] {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "who is it?", http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/repo.git"
}

// leaks builds with all canaries and says where each was found.
func (r *rig) leaks(t *testing.T, ours bool) map[string]map[string]bool {
	t.Helper()
	said, written := "", ""
	for i, b := range r.canaryBuilds(r.canaryRepo(t), ours) {
		if ours && b.named {
			b.opt.Opts["build-arg:LOCALFRONT_NAME"] = fmt.Sprintf("localhost/leak:%d", i)
		}
		o := r.build(t.Context(), t, b.opt)
		if (o.err != nil) != b.fails {
			t.Fatalf("build %d: %v\n%s", i, o.err, o.res)
		}
		said += fmt.Sprintf("%s\n%v\n", o.res, o.err)
		if b.opt.Opts["build-arg:LOCALFRONT_LOCK"] != "" {
			written = o.file("Dockerfile.lock")
		}
	}
	if ours && strings.Count(written, "[") != 3 {
		t.Errorf("the lock has not an image, a file and a repository:\n%s", written)
	}
	places := map[string]string{"what the build says": said, "the daemon's log": r.Log(), "the lock that was written": written}
	r.Stop(t) // so that everything is on the disk
	found := map[string]map[string]bool{}
	note := func(where string, data []byte) {
		for what, canary := range canaries {
			if bytes.Contains(data, []byte(canary)) {
				if found[what] == nil {
					found[what] = map[string]bool{}
				}
				found[what][where] = true
			}
		}
	}
	for where, text := range places {
		note(where, []byte(text))
	}
	searched := 0
	err := filepath.WalkDir(r.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched++
		// What the client sent stays as it is, with any frontend: how many of
		// those it sent one after the other depends on when the builder lets go.
		if name := filepath.Base(path); name != "Dockerfile" && name != "Dockerfile.lock" {
			note(kind(r.Root(), path), append(data, unpacked(t, data)...))
		}
		return nil
	})
	if err != nil || searched < 10 {
		t.Fatalf("searched %d files: %v", searched, err)
	}
	return found
}

// kind says what a file of a daemon's state is, without what is made up anew.
func kind(root, path string) string {
	rel, _ := filepath.Rel(root, path)
	elems := strings.Split(rel, string(filepath.Separator))
	return strings.Join(elems[:min(2, len(elems))], "/")
}

// unpacked returns what a compressed value of the ledger holds.
func unpacked(t *testing.T, data []byte) []byte {
	t.Helper()
	packed, ok := bytes.CutPrefix(data, []byte("zstd:"))
	if !ok {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(string(packed))
	if err != nil {
		t.Fatal(err)
	}
	r, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := r.DecodeAll(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
