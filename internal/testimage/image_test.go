package testimage

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func digest(t *testing.T, content interface{ Digest() (v1.Hash, error) }, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	h, err := content.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// files lists an image's file system: "d" or a link's target or the content,
// busybox's own content left out.
func files(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	found := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		switch h.Typeflag {
		case tar.TypeDir:
			found[name] = "d " + fs.FileMode(h.Mode).String()
		case tar.TypeSymlink:
			found[name] = "-> " + h.Linkname
		default:
			data, err := io.ReadAll(io.LimitReader(r, 4096))
			if err != nil {
				t.Fatal(err)
			}
			found[name] = string(data)
		}
	}
}

func TestBusybox(t *testing.T) {
	t.Parallel()
	img, err := Busybox("linux/amd64", Variant("3.20.1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	got := files(t, img)
	for _, applet := range strings.Fields("sh cat ls touch echo sleep mkdir cp rm sha256sum id env stat find sed grep test") {
		if got["bin/"+applet] != "-> /bin/busybox" && got["usr/bin/"+applet] != "-> /bin/busybox" {
			t.Errorf("no applet %s", applet)
		}
	}
	if got["etc/release"] != "3.20.1\n" || !strings.HasPrefix(got["etc/passwd"], "root:") {
		t.Errorf("files in /etc: %q, %q", got["etc/release"], got["etc/passwd"])
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "amd64" || c.OS != "linux" || len(c.Config.Env) != 1 || !c.Created.Equal(Created) {
		t.Errorf("config = %+v", c)
	}
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	one, err := Busybox("linux/amd64")
	first := digest(t, one, err)
	again, err := Busybox("linux/amd64")
	if second := digest(t, again, err); second != first {
		t.Errorf("two makings differ: %s, %s", first, second)
	}
	other, err := Busybox("linux/amd64", Variant("2"))
	if digest(t, other, err) == first {
		t.Error("a variant has the same digest")
	}
	labelled, err := Busybox("linux/amd64", Config(func(c *v1.ConfigFile) { c.Config.User = "nobody" }))
	if digest(t, labelled, err) == first {
		t.Error("a changed config has the same digest")
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	want := []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x"}
	idx, err := Index(want, Variant("1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range m.Manifests {
		if got := d.Platform.String(); got != want[i] {
			t.Errorf("platform %d = %s, want %s", i, got, want[i])
		}
	}
}

func TestMissingArchitectureIsAnError(t *testing.T) {
	t.Parallel()
	_, err := Busybox("linux/mips64le")
	if err == nil || !strings.Contains(err.Error(), "run hack/busybox.sh mips64le") {
		t.Errorf("error = %v, want a hint", err)
	}
}

func TestFrontend(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(binary, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := Frontend(binary, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Slow validation would take the uncompressed layer for a gzipped one.
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Labels["moby.buildkit.frontend.network.none"] != "true" || c.Config.Entrypoint[0] != "/bin/frontend" {
		t.Errorf("config = %+v", c.Config)
	}
	if got := files(t, img)["bin/frontend"]; got != "binary" {
		t.Errorf("/bin/frontend = %q", got)
	}
}
