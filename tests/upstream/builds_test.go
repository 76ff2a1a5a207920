package upstream

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/testutil/integration"
	"github.com/tonistiigi/fsutil"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

func testRun(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	b := df("FROM busybox", "ARG WHO=nobody", "RUN echo $WHO > /x")
	b.attrs = map[string]string{"build-arg:WHO": "me"}
	export := testengine.ExportOCI(t)
	b.Exports = []client.ExportEntry{export.Entry}
	r.run(t, b)
	img := export.Image(t, "linux/amd64")
	files := testengine.Files(t, img)
	want(t, files, "x", "me\n")
	want(t, files, "etc/release", "library/busybox:latest\n")
	wantText(t, r.run(t, b), "RUN echo me > /x CACHED")
}

func testMultiStage(t *testing.T, sb integration.Sandbox) {
	b := df(
		"FROM busybox AS a",
		"RUN echo a > /a",
		"FROM a AS b",
		"RUN --mount=from=alpine,target=/m cat /a /m/etc/release > /b",
		"FROM scratch",
		"COPY --from=b /b /",
		"COPY --from=busybox:stable /etc/release /stable",
		"COPY f /",
	)
	b.files["f"] = "from the context"
	files := newRig(t, sb).output(t, b)
	want(t, files, "b", "a\nlibrary/alpine:latest\n")
	want(t, files, "stable", "library/busybox:stable\n")
	want(t, files, "f", "from the context")
}

func testSecret(t *testing.T, sb integration.Sandbox) {
	b := df("FROM busybox", `RUN --mount=type=secret,id=pw --mount=type=secret,id=pw,env=PW test "$(cat /run/secrets/pw) $PW" = "hush hush"`)
	b.Session = []session.Attachable{secretsprovider.FromMap(map[string][]byte{"pw": []byte("hush")})}
	newRig(t, sb).run(t, b)
}

func testSSH(t *testing.T, sb integration.Sandbox) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := folderPath(t, map[string]string{"key": string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key),
	}))})
	agent, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{Paths: []string{filepath.Join(dir, "key")}}})
	if err != nil {
		t.Fatal(err)
	}
	b := df("FROM busybox", `RUN --mount=type=ssh,mode=741,uid=100 test "$(stat -c '%u %f' $SSH_AUTH_SOCK)" = "100 c1e1"`)
	b.Session = []session.Attachable{agent}
	newRig(t, sb).run(t, b)
}

func testCacheMount(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	b := df("FROM busybox AS a", "ARG N", "RUN --mount=type=cache,target=/c echo $N >> /c/n && cp /c/n /n", "FROM scratch", "COPY --from=a /n /")
	b.attrs = map[string]string{"build-arg:N": "1"}
	want(t, r.output(t, b), "n", "1\n")
	b.attrs = map[string]string{"build-arg:N": "2"}
	want(t, r.output(t, b), "n", "1\n2\n")
}

func testNamedContexts(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	store, ref := ociStore(t)
	b := df(
		"FROM alpine:3 AS image",
		"FROM scratch",
		"COPY --from=image /etc/release /image",
		"COPY --from=folder f /",
		"COPY --from=layout /etc/release /layout",
	)
	b.attrs = map[string]string{
		"context:alpine:3": "docker-image://docker.io/library/busybox:latest",
		"context:folder":   "local:folder",
		"context:layout":   "oci-layout://store@" + ref,
	}
	b.LocalMounts = map[string]fsutil.FS{"folder": folder(t, map[string]string{"f": "in the folder"})}
	b.OCIStores = map[string]content.Store{"store": store}
	files := r.output(t, b)
	want(t, files, "image", "library/busybox:latest\n")
	want(t, files, "f", "in the folder")
	want(t, files, "layout", "layout\n")
}

// ociStore is a content store with one image, and the image's digest.
func ociStore(t *testing.T) (content.Store, string) {
	t.Helper()
	img, err := testimage.Busybox("linux/amd64", testimage.Variant("layout"))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	store, err := local.NewStore(layoutDir(t, img))
	if err != nil {
		t.Fatal(err)
	}
	return store, digest.String()
}

func testGitContext(t *testing.T, sb integration.Sandbox) {
	dir := folderPath(t, map[string]string{
		"sub/Dockerfile": "FROM scratch\nCOPY f /\n",
		"sub/f":          "committed",
	})
	for _, args := range []string{
		"init -q -b main", "add .", "-c user.name=me -c user.email=me@localhost commit -q -m x", "update-server-info",
	} {
		cmd := exec.Command("git", strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	files := newRig(t, sb).output(t, build{attrs: map[string]string{"context": srv.URL + "/.git#main:sub"}})
	want(t, files, "f", "committed")
}

func testHTTPContext(t *testing.T, sb integration.Sandbox) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "sent"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(buf.Bytes()) }))
	defer srv.Close()
	files := newRig(t, sb).output(t, build{attrs: map[string]string{"context": srv.URL + "/context.tar"}})
	want(t, files, "f", "sent")
}

func testMultiPlatform(t *testing.T, sb integration.Sandbox) {
	b := df("FROM multi:1", "COPY f /", "ARG TARGETARCH", "LABEL arch=$TARGETARCH")
	b.files["f"] = "same"
	b.attrs = map[string]string{"platform": "linux/amd64,linux/s390x"}
	export := testengine.ExportOCI(t)
	b.Exports = []client.ExportEntry{export.Entry}
	newRig(t, sb).run(t, b)
	for _, arch := range []string{"amd64", "s390x"} {
		img := export.Image(t, "linux/"+arch)
		files := testengine.Files(t, img)
		want(t, files, "f", "same")
		want(t, files, "etc/release", "multi\n")
		if _, ok := files["bin/busybox"]; ok != (arch == "amd64") {
			t.Errorf("%s: busybox is there: %t", arch, ok)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Config.Labels["arch"]; got != arch {
			t.Errorf("label of %s is %q", arch, got)
		}
	}
}

// testExports: one build, exported in three ways at once.
func testExports(t *testing.T, sb integration.Sandbox) {
	b := df("FROM busybox AS a", "RUN echo x > /x", "FROM scratch", "COPY --from=a /x /")
	dir := t.TempDir()
	var tarred bytes.Buffer
	oci := testengine.ExportOCI(t)
	b.Exports = []client.ExportEntry{
		{Type: client.ExporterLocal, OutputDir: dir},
		{Type: client.ExporterTar, Output: func(map[string]string) (io.WriteCloser, error) { return nopCloser{&tarred}, nil }},
		oci.Entry,
	}
	newRig(t, sb).run(t, b)
	want(t, readFolder(t, dir), "x", "x\n")
	want(t, testengine.Files(t, oci.Image(t, "")), "x", "x\n")
	h, err := tar.NewReader(&tarred).Next()
	if err != nil || h.Name != "x" {
		t.Errorf("tar export begins with %+v, %v", h, err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// unique is a build whose result differs each time that it runs.
func unique() build {
	b := df("FROM busybox AS a", "COPY f /", "RUN head -c 16 /dev/urandom | sha256sum > /u", "FROM scratch", "COPY --from=a /u /")
	b.files["f"] = "f"
	return b
}

// sharesCache: what one build exports, a daemon that has forgotten everything
// takes from the cache.
func (r *rig) sharesCache(t *testing.T, to, from client.CacheOptionsEntry) {
	t.Helper()
	first, again := unique(), unique()
	first.CacheExports = []client.CacheOptionsEntry{to}
	before := r.output(t, first)
	r.forget(t)
	again.CacheImports = []client.CacheOptionsEntry{from}
	want(t, r.output(t, again), "u", before["u"])
	r.forget(t)
	if got := r.output(t, unique())["u"]; got == before["u"] {
		t.Errorf("without the cache the result is the same, %q", got)
	}
}

func testCacheRegistry(t *testing.T, sb integration.Sandbox) {
	host, err := sb.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	attrs := map[string]string{"ref": host + "/cache:1", "mode": "max"}
	newRig(t, sb).sharesCache(t, client.CacheOptionsEntry{Type: "registry", Attrs: attrs}, client.CacheOptionsEntry{Type: "registry", Attrs: attrs})
}

func testCacheLocal(t *testing.T, sb integration.Sandbox) {
	dir := t.TempDir()
	newRig(t, sb).sharesCache(t,
		client.CacheOptionsEntry{Type: "local", Attrs: map[string]string{"dest": dir, "mode": "max"}},
		client.CacheOptionsEntry{Type: "local", Attrs: map[string]string{"src": dir}})
}

// testCacheInline: the cache is in the image that was pushed.
func testCacheInline(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	host, err := sb.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	ref := host + "/app:1"
	dockerfile := []string{"FROM busybox", "RUN head -c 16 /dev/urandom | sha256sum > /u"}
	b := df(dockerfile...)
	b.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": ref, "push": "true"}}}
	b.CacheExports = []client.CacheOptionsEntry{{Type: "inline"}}
	r.run(t, b)
	r.forget(t)
	again := df(dockerfile...)
	again.CacheImports = []client.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": ref}}}
	wantText(t, r.run(t, again), "sha256sum > /u CACHED")
}

func testSBOM(t *testing.T, sb integration.Sandbox) {
	b := df("FROM scratch", "COPY name /")
	b.files["name"] = "found by the scanner"
	b.attrs = map[string]string{"attest:sbom": "generator=docker.io/library/scanner:1"}
	files := newRig(t, sb).output(t, b)
	wantText(t, files["sbom.spdx.json"], "found by the scanner", "https://spdx.dev/Document")
}

// testProvenance builds twice: the second time localfront remembers the image,
// and has to name the same material. (It has the digest in the name as well
// then, since no name without it is looked up.)
func testProvenance(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	var digests []string
	for range 2 {
		b := df("FROM busybox", "RUN echo hello")
		b.attrs = map[string]string{"attest:provenance": "mode=max"}
		prov := r.output(t, b)["provenance.json"]
		wantText(t, prov, r.frontend, "echo hello")
		for _, m := range materials(t, prov) {
			switch {
			case strings.HasPrefix(m.URI, "pkg:docker/busybox@latest?") && strings.HasSuffix(m.URI, "platform=linux%2Famd64"):
				digests = append(digests, m.Digest["sha256"])
			case !strings.HasPrefix(m.URI, "pkg:docker/"):
				t.Errorf("unexpected material %s", m.URI)
			}
		}
	}
	if len(digests) != 2 || digests[0] != digests[1] {
		t.Errorf("busybox is a material of two builds as %q", digests)
	}
}

type material struct {
	URI    string
	Digest map[string]string
}

// materials reads an in-toto statement with SLSA provenance v1.
func materials(t *testing.T, statement string) []material {
	t.Helper()
	var st struct {
		Predicate struct {
			BuildDefinition struct{ ResolvedDependencies []material }
		}
	}
	if err := json.Unmarshal([]byte(statement), &st); err != nil {
		t.Fatalf("%v in %s", err, statement)
	}
	return st.Predicate.BuildDefinition.ResolvedDependencies
}

func testError(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	for _, line := range []string{"RUN exit 7", "COPY nowhere /", "NOSUCH thing", "FROM nowhere:1"} {
		_, err := r.try(t, df("FROM busybox", line))
		if err == nil {
			t.Errorf("%s: no error", line)
			continue
		}
		sources := errdefs.Sources(err)
		if len(sources) == 0 || sources[0].Ranges[0].Start.Line != 2 {
			t.Errorf("%s: the error does not point to line 2: %v\n%v", line, sources, err)
		}
	}
}

// testUnplugged builds again after the registry has gone: the complaint.
func testUnplugged(t *testing.T, sb integration.Sandbox) {
	r, reg := newRig(t, sb), registryWith(t, "base:1")
	b := df("FROM "+reg.Ref("base:1"), "RUN echo x > /x")
	r.run(t, b)
	reg.Stop()
	progress, err := r.try(t, b)
	switch {
	case r.frontend == official && err == nil:
		t.Errorf("the official frontend needs no registry any more:\n%s", progress)
	case r.frontend == localfront && err != nil:
		t.Errorf("%v\n%s", err, progress)
	case r.frontend == localfront:
		wantText(t, progress, "RUN echo x > /x CACHED", "base:1 from memory")
	}
}

// testSyntaxLine has the daemon find the frontend by the Dockerfile.
func testSyntaxLine(t *testing.T, sb integration.Sandbox) {
	r := newRig(t, sb)
	b := df("# syntax="+r.frontend, "FROM busybox", "RUN echo x > /x")
	b.Frontend = "dockerfile.v0"
	wantText(t, r.run(t, b), "resolve image config for docker-image://"+r.frontend, "RUN echo x > /x")
}

func testOffline(t *testing.T, sb integration.Sandbox) {
	r, reg := newRig(t, sb), registryWith(t, "base:1", "never:1")
	offline := func(base string) build {
		b := df("FROM "+reg.Ref(base), "RUN echo x > /x")
		b.attrs = map[string]string{"build-arg:LOCALFRONT_OFFLINE": "1"}
		return b
	}
	r.run(t, df("FROM "+reg.Ref("base:1"), "RUN echo x > /x"))
	reg.Reset()
	wantText(t, r.run(t, offline("base:1")), "RUN echo x > /x CACHED")
	_, err := r.try(t, offline("never:1"))
	if err == nil {
		t.Fatal("an image that was never built on was had offline")
	}
	wantText(t, err.Error(), reg.Ref("never:1"), "offline")
	if log := reg.Log(); log != "" {
		t.Errorf("offline, and yet:\n%s", log)
	}
}

// registryWith is a registry that counts, with busybox under some names.
func registryWith(t *testing.T, names ...string) *testregistry.Registry {
	t.Helper()
	reg := testregistry.New(t)
	for _, name := range names {
		img, err := testimage.Busybox("linux/amd64", testimage.Variant(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reg.Push(name, img); err != nil {
			t.Fatal(err)
		}
	}
	return reg
}
