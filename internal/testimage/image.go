// Package testimage makes the images that tests and the demo build on: small,
// from Debian's static busybox, and the same bytes every time.
//
// Images are made in memory with go-containerregistry. Where they go (a
// testregistry, an OCI layout) is the caller's business.
package testimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Created is the time of every image, layer and file made here.
var Created = time.Date(2024, time.January, 2, 3, 4, 5, 0, time.UTC)

const pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Option changes an image that is made.
type Option func(*spec)

type spec struct {
	files  map[string]string
	config []func(*v1.ConfigFile)
}

// Variant adds /etc/release with this text, so that two versions of one tag
// have different digests and can be told apart in a build.
func Variant(text string) Option { return File("/etc/release", text+"\n") }

// File adds a regular file, mode 0644.
func File(name, content string) Option {
	return func(s *spec) { s.files[name] = content }
}

// Config changes the image's config: labels, ONBUILD, user, and so on.
func Config(change func(*v1.ConfigFile)) Option {
	return func(s *spec) { s.config = append(s.config, change) }
}

func newSpec(opts []Option) *spec {
	s := &spec{files: map[string]string{}}
	for _, o := range opts {
		o(s)
	}
	return s
}

// Busybox makes an image for a platform such as "linux/amd64": one gzipped
// layer with /bin/busybox, its applets as symlinks, and the few files and
// directories a root file system has. The host's own architecture needs
// Debian's busybox-static; others need hack/busybox.sh to have been run.
func Busybox(platform string, opts ...Option) (v1.Image, error) {
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("busybox image: %w", err)
	}
	binary, err := busyboxBinary(p.Architecture)
	if err != nil {
		return nil, fmt.Errorf("busybox image for %s: %w", platform, err)
	}
	links, err := applets()
	if err != nil {
		return nil, fmt.Errorf("busybox image for %s: %w", platform, err)
	}
	s := newSpec(opts)
	t := newTree()
	t.add("/bin/busybox", entry{mode: 0o755, content: binary})
	for _, link := range links {
		t.add("/"+link, entry{mode: 0o777, target: "/bin/busybox"})
	}
	for name, mode := range map[string]fs.FileMode{
		"/dev": 0o755, "/home": 0o755, "/proc": 0o755, "/root": 0o700,
		"/sys": 0o755, "/tmp": 0o1777, "/var": 0o755, "/var/tmp": 0o1777,
	} {
		t.add(name, entry{mode: mode, dir: true})
	}
	t.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
	t.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	for name, content := range s.files {
		t.text(name, content)
	}
	layer, err := t.gzipped()
	if err != nil {
		return nil, fmt.Errorf("busybox image for %s: %w", platform, err)
	}
	return assemble(platform, layer, append([]func(*v1.ConfigFile){func(c *v1.ConfigFile) {
		c.Config.Env = []string{pathEnv}
		c.Config.Cmd = []string{"/bin/sh"}
	}}, s.config...))
}

// Static makes an image for any platform that holds only the given files, by
// absolute path, and no program. It is enough for COPY --from and for telling
// platforms apart.
func Static(platform string, files map[string]string, opts ...Option) (v1.Image, error) {
	s := newSpec(opts)
	t := newTree()
	maps.Copy(s.files, files)
	for name, content := range s.files {
		t.text(name, content)
	}
	layer, err := t.gzipped()
	if err != nil {
		return nil, fmt.Errorf("static image for %s: %w", platform, err)
	}
	return assemble(platform, layer, s.config)
}

// Index makes an OCI index with one image for each platform: Busybox for
// linux/amd64 and linux/arm64, Static (with /etc/platform) for the others.
func Index(platforms []string, opts ...Option) (v1.ImageIndex, error) {
	var images []v1.Image
	for _, p := range platforms {
		var img v1.Image
		var err error
		switch p {
		case "linux/amd64", "linux/arm64":
			img, err = Busybox(p, opts...)
		default:
			img, err = Static(p, map[string]string{"/etc/platform": p + "\n"}, opts...)
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return IndexOf(images...)
}

// IndexOf makes an OCI index of images, in this order, each for the platform
// in its config.
func IndexOf(images ...v1.Image) (v1.ImageIndex, error) {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		c, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{
				OS: c.OS, Architecture: c.Architecture, Variant: c.Variant,
			}},
		})
	}
	return idx, nil
}

// assemble makes an OCI image of one layer.
func assemble(platform string, layer v1.Layer, config []func(*v1.ConfigFile)) (v1.Image, error) {
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: Created}, CreatedBy: "testimage"},
	})
	if err != nil {
		return nil, fmt.Errorf("image for %s: %w", platform, err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image for %s: %w", platform, err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	c.Created = v1.Time{Time: Created}
	for _, change := range config {
		change(c)
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		return nil, fmt.Errorf("image for %s: %w", platform, err)
	}
	return img, nil
}

// tree is a file system on its way into a layer.
type tree struct{ entries map[string]entry }

type entry struct {
	mode    fs.FileMode
	dir     bool
	target  string // of a symlink
	content []byte
}

func newTree() *tree { return &tree{entries: map[string]entry{}} }

func (t *tree) text(name, content string) {
	t.add(name, entry{mode: 0o644, content: []byte(content)})
}

// add puts in an entry and the directories above it that are not there yet.
func (t *tree) add(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	t.entries[name] = e
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; !ok {
			t.entries[dir] = entry{mode: 0o755, dir: true}
		}
	}
}

// tar writes the tree sorted by name, so that equal trees are equal bytes.
func (t *tree) tar() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[name]
		h := &tar.Header{
			Name: name, Mode: int64(e.mode), Size: int64(len(e.content)),
			ModTime: Created, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		}
		switch {
		case e.dir:
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case e.target != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return buf.Bytes(), nil
}

// gzipped is the tree as base images have it.
func (t *tree) gzipped() (v1.Layer, error) {
	data, err := t.tar()
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	layer, err := tarball.LayerFromOpener(open,
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compress layer: %w", err)
	}
	// Only the interface: tarball's own Descriptor method has empty annotations
	// that no parsed manifest has.
	return struct{ v1.Layer }{layer}, nil
}

// plain is the tree uncompressed, for large binaries that change often.
func (t *tree) plain() (v1.Layer, error) {
	data, err := t.tar()
	if err != nil {
		return nil, err
	}
	return static.NewLayer(data, types.OCIUncompressedLayer), nil
}

func readFirst(names ...string) ([]byte, error) {
	var errs []error
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err == nil {
			return data, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
