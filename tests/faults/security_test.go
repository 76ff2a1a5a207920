package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// poison makes the ledger say that a name, with and without its right digest,
// stands for another image, as memory and as a result.
func (r *rig) poison(t *testing.T, ref string, right, evil digest.Digest) {
	t.Helper()
	repo := ref[:strings.LastIndex(ref, ":")]
	testengine.MustRun(t.Context(), t, r.Buildkitd, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM scratch")}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		l, err := ledger.New(c, graph.Guard)
		if err != nil {
			return nil, err
		}
		img := &ledger.Image{Digest: evil, Resolved: time.Now(), Platforms: map[string]ledger.Platform{"linux/amd64": {Layers: 1, Content: ledger.Here}}}
		for _, key := range []string{ref, repo + "@" + right.String(), ref + "@" + right.String()} {
			if err := l.Write(ctx, key, ledger.Entry{Image: img}); err != nil {
				return nil, fmt.Errorf("poison %s: %w", key, err)
			}
		}
		return gateway.NewResult(), nil
	})
}

// TestLockedIsImmune: whatever the ledger says, a locked build is the same.
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
	lock := fmt.Sprintf("version = 1\n\n[image.%q]\ndigest = %q\n", r.images.Ref("base:1"), digests[0])
	opt := func(words string) testengine.BuildOpt {
		return testengine.BuildOpt{
			Dockerfile: r.dockerfile(words, "FROM REG/base:1 AS b", "RUN cat /etc/release > /out", "FROM scratch", "COPY --from=b /out /out"),
			Files:      map[string]string{},
		}
	}
	locked := opt("locked")
	locked.Files["Dockerfile.lock"] = lock
	built := func() string {
		o := locked
		o.Exports = []client.ExportEntry{testengine.ExportOCI(t).Entry}
		o.Opts = map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1"}
		return testengine.MustBuild(t.Context(), t, r.Buildkitd, o).Digest()
	}
	// Both images are on the builder, so that nothing but the ledger decides.
	for _, name := range []string{"1", "evil"} {
		o := opt("")
		o.Dockerfile = strings.Replace(o.Dockerfile, "base:1", "base:"+name, 1)
		r.mustBuild(t, o, nil)
	}
	before := built()
	r.poison(t, r.images.Ref("base:1"), digests[0], digests[1])
	r.mustBuild(t, opt(""), map[string]string{"out": "evil"}) // the poison works
	r.mustBuild(t, locked, map[string]string{"out": "one"})
	if after := built(); after != before {
		t.Errorf("built %s, and before the ledger was poisoned %s", after, before)
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
}

// TestNoSecretIsKept builds with secrets on a daemon with localfront and on one
// with the official frontend, and searches all that the daemons keep and say.
// localfront may leave behind nothing that the official frontend does not.
func TestNoSecretIsKept(t *testing.T) {
	t.Parallel()
	r, official := newRig(t, testengine.Config{}), newRig(t, testengine.Config{})
	official.frontend = official.official
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

// leaks builds with all canaries and says where each was found.
func (r *rig) leaks(t *testing.T, named bool) map[string]map[string]bool {
	t.Helper()
	opts := map[string]string{
		"build-arg:HTTP_PROXY": "http://user:" + canaries["a proxy's password"] + "@127.0.0.1:1",
		"build-arg:TOKEN":      canaries["a token as an ARG"],
	}
	lines := [][]string{
		{"# " + canaries["a comment's content"], "FROM REG/base:1", "RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /out", "COPY f /f"},
		{"FROM REG/base:1", "ARG TOKEN", "RUN echo $TOKEN | wc -c > /out"},
		{"FROM REG/base:1", "ADD http://user:" + canaries["a URL's password"] + "@" + r.images.Host() + "/v2/ /out"},
	}
	said := ""
	for i, text := range lines {
		if named {
			opts["build-arg:LOCALFRONT_NAME"] = fmt.Sprintf("localhost/leak:%d", i)
		}
		o := r.build(t.Context(), t, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", text...), Opts: opts, Files: map[string]string{"f": "f"},
			Secrets: map[string][]byte{"s": []byte(canaries["a secret"])},
		})
		if o.err != nil {
			t.Fatalf("build %d: %v\n%s", i, o.err, o.res)
		}
		said += o.res.String()
	}
	places := map[string]string{"what the build says": said, "the daemon's log": r.Log()}
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
		note(kind(r.Root(), path), append(data, unpacked(t, data)...))
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
