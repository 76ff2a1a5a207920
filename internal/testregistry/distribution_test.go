package testregistry_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// TestLikeDistribution asks the real registry and the test registry the same
// questions, and compares what clients look at.
func TestLikeDistribution(t *testing.T) {
	t.Parallel()
	ours := testregistry.New(t)
	hosts := []string{distribution(t), ours.Host()}
	idx, err := testimage.Index([]string{"linux/s390x", "linux/ppc64le"})
	if err != nil {
		t.Fatal(err)
	}
	q := questions(t, idx)
	for _, host := range hosts {
		ref, err := name.ParseReference(host + "/multi/base:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, idx); err != nil {
			t.Fatal(err)
		}
	}
	for _, request := range q {
		want := answer(t, hosts[0], request)
		got := answer(t, hosts[1], request)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-distribution +testregistry):\n%s", request.method, request.path, diff)
		}
	}
}

type question struct{ method, path, header, value, body string }

// questions about multi/base:1, ending with its deletion.
func questions(t *testing.T, idx v1.ImageIndex) []question {
	t.Helper()
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := idx.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	const absent = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	base, accept := "/v2/multi/base", string(m.MediaType)
	return []question{
		{method: "GET", path: "/v2/"},
		{"HEAD", base + "/manifests/1", "Accept", accept, ""},
		{"GET", base + "/manifests/1", "Accept", accept, ""},
		{"GET", base + "/manifests/1", "Accept", "application/json, " + accept + ";q=0.5", ""},
		{"GET", base + "/manifests/1", "Accept", "*/*", ""},
		{method: "HEAD", path: base + "/manifests/1"},
		{"GET", base + "/manifests/" + digest.String(), "Accept", accept, ""},
		{"GET", base + "/manifests/" + m.Manifests[0].Digest.String(), "Accept", string(m.Manifests[0].MediaType), ""},
		{"GET", base + "/manifests/" + m.Manifests[0].Digest.String(), "Accept", accept, ""},
		{"HEAD", base + "/manifests/" + m.Manifests[0].Digest.String(), "Accept", "*/*", ""},
		{"GET", base + "/manifests/1", "If-None-Match", strconv.Quote(digest.String()), ""},
		{"GET", base + "/manifests/sha256:short", "Accept", accept, ""},
		{"GET", base + "/referrers/" + digest.String(), "Accept", accept, ""},
		{"GET", base + "/manifests/2", "Accept", accept, ""},
		{"HEAD", base + "/manifests/2", "Accept", accept, ""},
		{"GET", base + "/manifests/" + absent, "Accept", accept, ""},
		{"GET", "/v2/no/such/manifests/1", "Accept", accept, ""},
		{method: "HEAD", path: base + "/blobs/" + config.String()},
		{method: "GET", path: base + "/blobs/" + config.String()},
		{"GET", base + "/blobs/" + config.String(), "Range", "bytes=5-", ""},
		{"GET", base + "/blobs/" + config.String(), "Range", "bytes=0-9", ""},
		{"GET", base + "/blobs/" + config.String(), "Range", "bytes=999999-", ""},
		{method: "GET", path: base + "/blobs/" + absent},
		{method: "HEAD", path: base + "/blobs/" + absent},
		{method: "GET", path: "/v2/other/base/blobs/" + config.String()},
		{method: "GET", path: base + "/tags/list"},
		{"PUT", "/v2/other/base/manifests/1", "Content-Type", string(m.Manifests[0].MediaType), string(raw)},
		{"PUT", base + "/manifests/" + absent, "Content-Type", string(m.Manifests[0].MediaType), string(raw)},
		{"PUT", base + "/manifests/3", "Content-Type", string(m.Manifests[0].MediaType), "{"},
		{method: "DELETE", path: base + "/manifests/1"},
		{"GET", base + "/manifests/1", "Accept", accept, ""},
		{"GET", base + "/manifests/" + digest.String(), "Accept", accept, ""},
	}
}

// reply is what a client can tell two registries apart by.
type reply struct {
	Status int
	Header map[string]string
	Codes  []string
	Body   string // of good answers
}

func answer(t *testing.T, host string, q question) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), q.method, "http://"+host+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if q.header != "" {
		req.Header.Set(q.header, q.value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{Status: resp.StatusCode, Header: map[string]string{}}
	for _, h := range []string{
		"Docker-Distribution-Api-Version", "Docker-Content-Digest", "Etag",
		"Content-Range", "Accept-Ranges",
	} {
		r.Header[h] = resp.Header.Get(h)
	}
	r.Header["Content-Type"], _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
	if r.Status < 400 {
		r.Header["Content-Length"] = resp.Header.Get("Content-Length")
		r.Body = strings.TrimSpace(string(body))
		if strings.HasSuffix(q.path, "/tags/list") {
			delete(r.Header, "Content-Length") // one ends it with a newline
		}
		return r
	}
	var failed struct{ Errors []struct{ Code string } }
	_ = json.Unmarshal(body, &failed)
	for _, e := range failed.Errors {
		r.Codes = append(r.Codes, e.Code)
	}
	return r
}

// distribution starts the real registry on a free port.
func distribution(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %q}\n", dir, host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testengine.Bin(t, "registry"), "serve", config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	await.Until(t, "the registry to listen", func() (string, bool) {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			return err.Error(), false
		}
		return "", conn.Close() == nil
	})
	return host
}
