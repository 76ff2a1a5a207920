package testengine

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/moby/buildkit/client"
)

// OCIExport is the result of a build as an OCI layout.
type OCIExport struct {
	Entry client.ExportEntry // to go into BuildOpt.Exports
	path  string
}

// ExportOCI makes an export to an OCI tar file. Attributes, such as
// "rewrite-timestamp", may be added to its Entry.
func ExportOCI(t testing.TB) *OCIExport {
	t.Helper()
	e := &OCIExport{path: filepath.Join(t.TempDir(), "oci.tar")}
	e.Entry = client.ExportEntry{
		Type:  client.ExporterOCI,
		Attrs: map[string]string{},
		Output: func(map[string]string) (io.WriteCloser, error) {
			return os.Create(e.path)
		},
	}
	return e
}

// Path is where a client that is told so has to write the tar file.
func (e *OCIExport) Path() string { return e.path }

// Layout unpacks the tar file and returns the layout's directory.
func (e *OCIExport) Layout(t testing.TB) string {
	t.Helper()
	f, err := os.Open(e.path)
	if err != nil {
		t.Fatalf("read OCI export: %v", err)
	}
	defer f.Close()
	dir := t.TempDir()
	if err := untar(f, dir); err != nil {
		t.Fatalf("read OCI export: %v", err)
	}
	return dir
}

// Index is the layout's own index; what was built is its manifest or manifests.
func (e *OCIExport) Index(t testing.TB) v1.ImageIndex {
	t.Helper()
	idx, err := layout.ImageIndexFromPath(e.Layout(t))
	if err != nil {
		t.Fatalf("read OCI export: %v", err)
	}
	return idx
}

// Descriptor is the one image or index that was built.
func (e *OCIExport) Descriptor(t testing.TB) v1.Descriptor {
	t.Helper()
	m, err := e.Index(t).IndexManifest()
	if err != nil {
		t.Fatalf("read OCI export: %v", err)
	}
	if len(m.Manifests) != 1 {
		t.Fatalf("OCI export holds %d manifests, want 1", len(m.Manifests))
	}
	return m.Manifests[0]
}

// Image is the built image for a platform such as "linux/amd64", or the only
// image when the platform is empty.
func (e *OCIExport) Image(t testing.TB, platform string) v1.Image {
	t.Helper()
	img, err := findImage(e.Index(t), platform)
	if err != nil {
		t.Fatalf("read OCI export: %v", err)
	}
	return img
}

// findImage looks into nested indexes, and leaves attestations aside.
func findImage(idx v1.ImageIndex, platform string) (v1.Image, error) {
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if d.MediaType.IsIndex() {
			nested, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := findImage(nested, platform); err == nil {
				return img, nil
			}
			continue
		}
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		img, err := idx.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		if ok, err := isFor(img, platform); err != nil || ok {
			return img, err
		}
	}
	return nil, fmt.Errorf("no image for platform %q", platform)
}

func isFor(img v1.Image, platform string) (bool, error) {
	if platform == "" {
		return true, nil
	}
	want, err := platforms.Parse(platform)
	if err != nil {
		return false, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return false, err
	}
	return c.OS == want.OS && c.Architecture == want.Architecture && c.Variant == want.Variant, nil
}

// Files are the regular files of an image, by path without leading slash.
// Files over 64 KiB are cut there.
func Files(t testing.TB, img v1.Image) map[string]string {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	files := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatalf("read image: %v", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(r, 64<<10))
		if err != nil {
			t.Fatalf("read image: %v", err)
		}
		files[h.Name] = string(data)
	}
}

// ExportLocal makes an export to a directory, as "-o DIR" does, and returns
// that directory.
func ExportLocal(t testing.TB) (client.ExportEntry, string) {
	t.Helper()
	dir := t.TempDir()
	return client.ExportEntry{Type: client.ExporterLocal, OutputDir: dir}, dir
}

// untar unpacks plain files and directories, which is all an OCI layout has.
func untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag == tar.TypeDir {
			if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			continue
		}
		f, err := root.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, tr)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
