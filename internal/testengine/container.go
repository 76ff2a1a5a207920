package testengine

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
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
	config := Config{Insecure: d.config.Insecure, ExtraTOML: d.config.Builders.ExtraTOML}
	if len(d.config.Mirrors) > 0 {
		config.Insecure = append(d.config.Mirrors, config.Insecure...)
		config.Mirrors = map[string][]string{"docker.io": d.config.Mirrors}
	}
	toml := d.path(builder + ".toml")
	if err := os.WriteFile(toml, []byte(config.toml()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.MustBuildx(t, "create", "--name", builder, "--driver", "docker-container", "--bootstrap",
		"--buildkitd-flags", strings.Join(d.config.Builders.Args, " "),
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

// builder is made once: to hash it takes longer than to load it.
var builder struct {
	once sync.Once
	img  v1.Image
	err  error
}

// builderImage is like moby/buildkit: a shell, the daemon and what it runs.
func builderImage(t testing.TB) v1.Image {
	t.Helper()
	files := map[string]string{
		"usr/bin/buildctl":      Bin(t, "buildctl"),
		"usr/bin/buildkit-runc": Bin(t, "docker/runc"), // Debian's is not static
		"usr/bin/buildkitd":     Bin(t, "buildkitd"),
	}
	builder.once.Do(func() {
		if builder.err = addGit(files); builder.err == nil {
			builder.img, builder.err = imageOf(files)
		}
	})
	if builder.err != nil {
		t.Fatalf("make the builder's image: %v", builder.err)
	}
	return builder.img
}

// addGit adds the machine's git, what it fetches over http with, the libraries of
// both, and the scripts that update submodules, at the paths that they have here.
func addGit(files map[string]string) error {
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	out, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("git --exec-path: %w", err)
	}
	dir := strings.TrimSpace(string(out))
	for _, script := range []string{"git-submodule", "git-sh-setup", "git-sh-i18n"} {
		path := filepath.Join(dir, script)
		files[strings.TrimPrefix(path, "/")] = path
	}
	for _, program := range []string{git, filepath.Join(dir, "git-remote-http")} {
		files[strings.TrimPrefix(program, "/")] = program
		libraries, err := exec.Command("ldd", program).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", program, err)
		}
		for field := range strings.FieldsSeq(string(libraries)) {
			if filepath.IsAbs(field) {
				files[strings.TrimPrefix(field, "/")] = field
			}
		}
	}
	return nil
}

// imageOf is busybox with programs and libraries, by their paths there.
func imageOf(files map[string]string) (v1.Image, error) {
	base, err := testimage.Busybox("linux/" + runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data)), ModTime: testimage.Created}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(base, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.Config.Entrypoint, c.Config.Cmd = []string{"buildkitd"}, nil
	return mutate.ConfigFile(img, c)
}
