package testregistry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/localfront/internal/await"
)

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, r *Registry, ref string, content remote.Taggable) string {
	t.Helper()
	digest, err := r.Push(ref, content)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// pull reads a whole image over the network and validates its first layer.
func pull(r *Registry, ref string, opts ...remote.Option) error {
	parsed, err := name.ParseReference(r.Ref(ref))
	if err != nil {
		return err
	}
	quick := remote.WithRetryBackoff(remote.Backoff{Steps: 1})
	img, err := remote.Image(parsed, append(opts, quick)...)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err
}

func get(t *testing.T, r *Registry, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestLogIsExact(t *testing.T) {
	t.Parallel()
	r := New(t)
	digest := push(t, r, "library/alpine:3.20", image(t))
	if got := r.Log(); got != "" {
		t.Fatalf("pushing by helper was logged:\n%s", got)
	}
	if err := pull(r, "library/alpine:3.20"); err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(mustRef(t, r, "library/alpine@"+digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"GET ping /v2/ 200",
		"GET manifest library/alpine:3.20 200",
		"GET blob library/alpine@" + m.Layers[0].Digest.String() + " 200",
		"GET ping /v2/ 200",
		"GET manifest library/alpine@" + digest + " 200",
		"",
	}, "\n")
	if diff := cmp.Diff(want, r.Log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if n := r.Count(InRepository("library/alpine"), OfKind(Manifest), WithMethod("GET"), WithStatus(200)); n != 2 {
		t.Errorf("filtered count = %d, want 2", n)
	}
	if n := r.Count(InRepository("alpine")); n != 0 {
		t.Errorf("count of another repository = %d, want 0", n)
	}
	r.Reset()
	if n := r.Count(); n != 0 {
		t.Errorf("count after reset = %d, want 0", n)
	}
}

func mustRef(t *testing.T, r *Registry, ref string) name.Reference {
	t.Helper()
	parsed, err := name.ParseReference(r.Ref(ref))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestToken(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "library/alpine:3.20", image(t))
	push(t, r, "other/app:1", image(t))
	r.RequireToken(true)

	resp, _ := get(t, r, "/v2/library/alpine/manifests/3.20")
	want := `Bearer realm="http://` + r.Host() + `/token",service="` + r.Host() + `",scope="repository:library/alpine:pull"`
	if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || got != want {
		t.Errorf("challenge = %d %s, want 401 %s", resp.StatusCode, got, want)
	}
	r.Reset()
	if err := pull(r, "library/alpine:3.20"); err != nil {
		t.Fatal(err)
	}
	if n := r.Count(OfKind(Token), InRepository("library/alpine")); n != 1 {
		t.Errorf("token requests = %d, want 1:\n%s", n, r.Log())
	}
	// A push through the port needs, and gets, more than pull.
	if err := remote.Write(mustRef(t, r, "other/new:1"), image(t)); err != nil {
		t.Fatal(err)
	}
	// One repository's token is no good for another.
	r.RequireToken(false)
	r.RequireToken(true)
	_, body := get(t, r, "/token?scope=repository:library/alpine:pull")
	token := strings.Split(string(body), `"token":"`)[1]
	token, _, _ = strings.Cut(token, `"`)
	resp, _ = get(t, r, "/v2/other/app/manifests/1", "Authorization", "Bearer "+token)
	if resp.StatusCode != 401 || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "insufficient_scope") {
		t.Errorf("foreign token: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestErrorFaults(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]transport.ErrorCode{
		401: transport.UnauthorizedErrorCode, 403: transport.DeniedErrorCode,
		404: transport.ManifestUnknownErrorCode, 429: transport.TooManyRequestsErrorCode,
		500: transport.UnknownErrorCode,
	} {
		r := New(t)
		push(t, r, "aa:1", image(t))
		push(t, r, "bb:1", image(t))
		r.SetFaults("aa", Fault{Status: status, RetryAfter: 7 * time.Second, Kinds: []Kind{Manifest}})
		err := pull(r, "aa:1")
		var terr *transport.Error
		if !errors.As(err, &terr) || terr.StatusCode != status || terr.Errors[0].Code != code {
			t.Errorf("%d: pull = %v, want code %s", status, err, code)
		}
		resp, _ := get(t, r, "/v2/aa/manifests/1")
		if got := resp.Header.Get("Retry-After"); got != "7" {
			t.Errorf("%d: Retry-After = %q, want 7", status, got)
		}
		if err := pull(r, "bb:1"); err != nil {
			t.Errorf("%d: healthy repository: %v", status, err)
		}
		r.ClearFaults()
		if err := pull(r, "aa:1"); err != nil {
			t.Errorf("%d: after clearing: %v", status, err)
		}
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "aa:1", image(t))
	r.SetFaults(All, Fault{Delay: 50 * time.Millisecond})
	r.SetFaults("aa", Fault{Delay: 50 * time.Millisecond})
	start := time.Now()
	get(t, r, "/v2/aa/manifests/1")
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("answer took %s, want the sum of both delays", took)
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "aa:1", image(t))
	r.SetFaults("aa", Fault{Hang: true})

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := pull(r, "aa:1", remote.WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pull from a hanging registry = %v", err)
	}
	if n := r.Count(InRepository("aa"), WithStatus(0)); n != 1 {
		t.Errorf("unanswered requests = %d, want 1:\n%s", n, r.Log())
	}

	freed := make(chan error, 1)
	go func() { freed <- pull(r, "aa:1") }()
	hanging := func() (string, bool) { return r.Log(), r.Count(InRepository("aa"), WithStatus(0)) >= 2 }
	await.Until(t, "a request that hangs", hanging)
	r.SetFaults("aa")
	if err := <-freed; err != nil {
		t.Errorf("pull after release: %v", err)
	}

	r.SetFaults("aa", Fault{Hang: true})
	go func() { freed <- pull(r, "aa:1") }()
	await.Until(t, "a request that hangs", hanging)
	r.Stop()
	if err := <-freed; err == nil {
		t.Error("pull went well although the registry stopped")
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Manifest, Blob} {
		for _, fault := range []Fault{{Truncate: true}, {Corrupt: true}} {
			r := New(t)
			digest := push(t, r, "aa:1", image(t))
			fault.Kinds = []Kind{kind}
			r.SetFaults("aa", fault)
			if err := pull(r, "aa@"+digest); err == nil {
				t.Errorf("%s %+v: damage went unnoticed", kind, fault)
			}
			r.ClearFaults()
			if err := pull(r, "aa@"+digest); err != nil {
				t.Errorf("%s %+v: content did not survive: %v", kind, fault, err)
			}
		}
	}
}

func TestRedirectLoop(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "aa:1", image(t))
	r.SetFaults("aa", Fault{Redirect: true})
	if _, err := http.Get("http://" + r.Host() + "/v2/aa/manifests/1"); err == nil || !strings.Contains(err.Error(), "stopped after 10 redirects") {
		t.Errorf("error %v, want one of too many redirects", err)
	}
}

func TestExpiredToken(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "aa:1", image(t))
	r.RequireToken(true)
	r.SetFaults("aa", Fault{Kinds: []Kind{Manifest}, Status: http.StatusUnauthorized})
	resp, err := http.Get("http://" + r.Host() + "/v2/aa/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer realm=") {
		t.Errorf("401 with %q, want to be sent for a new token", got)
	}
	if err := pull(r, "aa:1"); err == nil {
		t.Error("pull went well with a token that is refused")
	}
}

func TestStopAndStart(t *testing.T) {
	t.Parallel()
	r := New(t)
	push(t, r, "aa:1", image(t))
	if err := pull(r, "aa:1"); err != nil {
		t.Fatal(err)
	}
	host, seen := r.Host(), r.Count()
	r.Stop()
	r.Stop()
	if _, err := net.Dial("tcp", host); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of a stopped registry = %v, want refused", err)
	}
	if l, err := net.Listen("tcp", host); err == nil {
		l.Close()
		t.Error("the port of a stopped registry was given away")
	}
	// Content can change meanwhile.
	moved := push(t, r, "aa:1", image(t))
	for range 2 {
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := pull(r, "aa@"+moved); err != nil {
		t.Error(err)
	}
	if r.Host() != host || r.Count() <= seen {
		t.Errorf("host %s, %d requests; want %s and more than %d", r.Host(), r.Count(), host, seen)
	}
}

func TestTagAndDelete(t *testing.T) {
	t.Parallel()
	r := New(t)
	one := push(t, r, "aa:1", image(t))
	two := push(t, r, "aa:2", image(t))
	if err := r.Tag("aa:2", "aa:1"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Digest("aa:1"); err != nil || got != two {
		t.Errorf("moved tag = %s, %v; want %s", got, err, two)
	}
	if err := pull(r, "aa@"+one); err != nil {
		t.Errorf("digest without a tag: %v", err)
	}
	if err := r.Delete("aa:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Digest("aa:1"); err == nil {
		t.Error("deleted tag is still there")
	}
	if err := r.Delete("aa@" + two); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"aa:2", "aa@" + two} {
		if _, err := r.Digest(ref); err == nil {
			t.Errorf("%s survived the deletion of its digest", ref)
		}
	}
}

func TestStrictness(t *testing.T) {
	t.Parallel()
	r := New(t)
	idx, err := random.Index(64, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	push(t, r, "multi:1", idx)
	img := image(t)
	push(t, r, "aa:1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blob := m.Layers[0].Digest.String()

	if resp, body := get(t, r, "/v2/bb/blobs/"+blob); resp.StatusCode != 404 || !bytes.Contains(body, []byte("BLOB_UNKNOWN")) {
		t.Errorf("blob of another repository: %d %s", resp.StatusCode, body)
	}
	if resp, body := get(t, r, "/v2/nope/manifests/1"); resp.StatusCode != 404 || !bytes.Contains(body, []byte("MANIFEST_UNKNOWN")) {
		t.Errorf("unknown repository: %d %s", resp.StatusCode, body)
	}
	if resp, _ := get(t, r, "/v2/multi/manifests/1", "Accept", "*/*"); resp.StatusCode != 200 {
		t.Errorf("OCI index without a matching Accept: %d, want 200", resp.StatusCode)
	}
	_, whole := get(t, r, "/v2/aa/blobs/"+blob)
	resp, rest := get(t, r, "/v2/aa/blobs/"+blob, "Range", "bytes=100-")
	if resp.StatusCode != 206 || !bytes.Equal(rest, whole[100:]) {
		t.Errorf("open range: %d, %d bytes, want 206, %d bytes", resp.StatusCode, len(rest), len(whole)-100)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+r.Host()+"/v2/bb/manifests/1", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", string(m.MediaType))
	put, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	put.Body.Close()
	if put.StatusCode != 400 {
		t.Errorf("manifest without its blobs: %d, want 400", put.StatusCode)
	}
}

func TestParallelUse(t *testing.T) {
	t.Parallel()
	r := New(t)
	img := image(t)
	push(t, r, "aa:1", img)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := pull(r, "aa:1"); err != nil {
				t.Error(err)
			}
			if _, err := r.Push("bb:1", img); err != nil {
				t.Error(err)
			}
			r.SetFaults("cc", Fault{Status: 500})
			r.Requests()
		})
	}
	wg.Wait()
}

func TestBlackHole(t *testing.T) {
	t.Parallel()
	reg := New(t)
	if err := reg.BlackHole(); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", reg.Host(), 300*time.Millisecond)
	var nerr net.Error
	if !errors.As(err, &nerr) || !nerr.Timeout() {
		t.Errorf("dial = %v, %v; want a time-out", c, err)
	}
	if err := reg.Start(); err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Push("after/hole:1", img); err != nil {
		t.Errorf("after the black hole: %v", err)
	}
}
