package parity

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/org/localfront/internal/testimage"
)

// Contexts and base images are older than the SOURCE_DATE_EPOCH of the builds,
// so that the exporter leaves their time stamps alone.
var (
	oldTime = time.Unix(1_600_000_000, 0).UTC()
	epoch   = testimage.Created.AddDate(0, 1, 0)
)

var accounts = []testimage.Option{
	testimage.File("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"),
	testimage.File("/etc/group", "root:x:0:\nstaff:x:50:\nalice:x:1000:\n"),
}

// recipe is one base image: busybox for linux/amd64 and, unless alone, an image
// without programs for each other platform.
type recipe struct {
	name    string
	options []testimage.Option
	alone   bool // a manifest, no index
}

var recipes = []recipe{
	{name: "busybox:1"},
	{name: "busybox:latest", options: []testimage.Option{testimage.Variant("latest")}},
	{name: "single:1", alone: true},
	{name: "full:1", options: []testimage.Option{testimage.File("/full.txt", "full\n"), testimage.Config(fullConfig)}},
	{name: "tools:1", options: []testimage.Option{
		testimage.File("/tools/data", "data\n"), testimage.File("/tools/sub/tool", "tool\n"),
	}},
	{name: "schema2:1", options: []testimage.Option{testimage.Variant("schema2")}, alone: true},
	{name: "onbuild:1", options: []testimage.Option{onbuild(
		"COPY --from=tools /tools/tool /tool", "ARG FLAVOUR=plain",
		"RUN echo $FLAVOUR > /flavour", "COPY . /app/", "ENV ONBUILT=yes")}},
	{name: "onbuild-bad:1", options: []testimage.Option{onbuild("COPY --form=tools /a /a")}},
}

// baseImages makes the images that the cases build on.
func baseImages() (map[string]remote.Taggable, error) {
	all := map[string]remote.Taggable{"empty:1": emptyImage()}
	for _, r := range recipes {
		img, err := r.make()
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", r.name, err)
		}
		all[r.name] = img
	}
	return all, nil
}

func (r recipe) make() (remote.Taggable, error) {
	options := slices.Concat(accounts, r.options)
	native, err := testimage.Busybox("linux/amd64", options...)
	if err != nil {
		return nil, err
	}
	if r.name == "schema2:1" {
		return mutate.ConfigMediaType(mutate.MediaType(native, types.DockerManifestSchema2), types.DockerConfigJSON), nil
	}
	if r.alone {
		return native, nil
	}
	images := []v1.Image{native}
	for _, platform := range []string{"linux/arm64", "linux/arm/v7"} {
		img, err := testimage.Static(platform, map[string]string{"/etc/platform": platform}, options...)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return testimage.IndexOf(images...)
}

func fullConfig(file *v1.ConfigFile) {
	c := &file.Config
	c.User = "1000:1000"
	c.WorkingDir = "/srv"
	c.Env = append(c.Env, "FULL_ENV=full value")
	c.Entrypoint = []string{"/bin/sh", "-c"}
	c.Cmd = []string{"echo full"}
	c.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	c.Volumes = map[string]struct{}{"/vol": {}}
	c.Labels = map[string]string{"full": "yes"}
	c.StopSignal = "SIGUSR1"
	c.Shell = []string{"/bin/sh", "-c"}
	c.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Minute}
}

func onbuild(triggers ...string) testimage.Option {
	return testimage.Config(func(file *v1.ConfigFile) { file.Config.OnBuild = triggers })
}

// emptyImage has a config and no layers, which the frontend takes for scratch.
func emptyImage() v1.Image {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", Created: v1.Time{Time: testimage.Created},
		Config: v1.Config{Env: []string{"EMPTY=yes"}},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	})
	if err != nil {
		panic(err) // a constant
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// tarOf packs files with the time stamps of the contexts.
func tarOf(files map[string][]byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range sortedKeys(files) {
		h := &tar.Header{Name: name, Mode: 0o644, ModTime: oldTime, Typeflag: tar.TypeReg, Size: int64(len(files[name]))}
		if strings.HasSuffix(name, ".sh") {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader(files[name])); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
