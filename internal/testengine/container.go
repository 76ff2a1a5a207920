package testengine

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/localfront/internal/testimage"
)

// buildkitImage is what moby/buildkit is called here. buildx pulls it first and
// goes on with what it finds: the address is a closed port, so that ends soon.
const buildkitImage = "127.0.0.1:1/moby/buildkit:test"

// DockerContainerBuilder starts a BuildKit in a container, as "docker buildx
// create" does, and returns a client that builds with it. The container is on
// the daemon's network and reaches the same registries. Its name is made up
// when none is given.
func (d *Dockerd) DockerContainerBuilder(t testing.TB, name ...string) *CLI {
	t.Helper()
	d.builders++
	builder := fmt.Sprintf("builder%d", d.builders)
	if len(name) > 0 {
		builder = name[0]
	}
	if d.builders == 1 {
		d.Load(t, buildkitImage, builderImage(t))
	}
	c := d.CLI(t)
	config := Config{Insecure: d.config.Insecure}
	if len(d.config.Mirrors) > 0 {
		config.Insecure = append(d.config.Mirrors, config.Insecure...)
		config.Mirrors = map[string][]string{"docker.io": d.config.Mirrors}
	}
	toml := d.path(builder + ".toml")
	if err := os.WriteFile(toml, []byte(config.toml()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.MustBuildx(t, "create", "--name", builder, "--driver", "docker-container", "--bootstrap",
		"--driver-opt", "image="+buildkitImage+",network=host,cgroup-parent="+d.cgroup()+"/buildx",
		"--buildkitd-config", toml)
	c.Builder = builder
	return c
}

// Load stores an image in the daemon, as "docker load" does.
func (d *Dockerd) Load(t testing.TB, ref string, img v1.Image) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatalf("load image: %v", err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarball.Write(tag, img, w)) }()
	_, err = d.API(t.Context(), http.MethodPost, "/images/load?quiet=1", r)
	_ = r.Close()
	if err != nil {
		t.Fatalf("load image %s: %v", ref, err)
	}
}

// builderImage is like moby/buildkit: a shell, the daemon and what it runs.
func builderImage(t testing.TB) v1.Image {
	t.Helper()
	base, err := testimage.Busybox("linux/" + runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, p := range []struct{ name, binary string }{
		{"buildctl", "buildctl"},
		{"buildkit-runc", "docker/runc"}, // Debian's is not static
		{"buildkitd", "buildkitd"},
	} {
		data, err := os.ReadFile(Bin(t, p.binary))
		if err != nil {
			t.Fatal(err)
		}
		h := &tar.Header{Name: "usr/bin/" + p.name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data)), ModTime: testimage.Created}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Config.Entrypoint, c.Config.Cmd = []string{"buildkitd"}, nil
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}
