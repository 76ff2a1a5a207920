package upstream

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/util/testutil/integration"

	"github.com/org/localfront/internal/testimage"
)

// The frontends, by the names that they have in the mirror.
const (
	official   = "docker.io/docker/dockerfile:1"
	localfront = "docker.io/org/localfront:1"
)

// baseImages are the images of docker.io that BuildKit's harness and suite ask
// for, all made of busybox here. What really needs Alpine or Debian fails.
var baseImages = []string{
	"library/busybox:latest", "library/busybox:stable", "library/busybox:stable-musl",
	"library/alpine:latest", "amd64/debian:bullseye-20230109-slim", "tonistiigi/hellofs:latest",
}

// The users and groups that the suite expects of busybox and Alpine.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`
	group = `root:x:0:
daemon:x:1:
bin:x:2:
wheel:x:10:root
nobody:x:65534:
`
)

// fillMirror makes the folder from which the harness's mirror serves docker.io.
func fillMirror(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	host, stop, err := integration.NewRegistry(dir)
	if err != nil {
		return fmt.Errorf("start registry: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()

	for _, base := range baseImages {
		img, err := testimage.Busybox("linux/amd64", testimage.Variant(base),
			testimage.File("/etc/passwd", passwd), testimage.File("/etc/group", group), testimage.File("/etc/alpine-release", "3.18.0\n"))
		if err != nil {
			return err
		}
		if img, err = likeDockers(img); err != nil {
			return err
		}
		if err := push(host, base, img); err != nil {
			return err
		}
	}
	idx, err := testimage.Index([]string{"linux/amd64", "linux/s390x"}, testimage.Variant("multi"))
	if err != nil {
		return err
	}
	if err := push(host, "library/multi:1", idx); err != nil {
		return err
	}
	scanner, err := testimage.Busybox("linux/amd64", testimage.File("/scan.sh", scanScript), testimage.Config(func(c *v1.ConfigFile) {
		c.Config.Entrypoint = []string{"sh", "/scan.sh"}
		c.Config.Cmd = nil
	}))
	if err != nil {
		return err
	}
	if err := push(host, "library/scanner:1", scanner); err != nil {
		return err
	}
	for ref, find := range map[string]func() (string, error){"docker/dockerfile:1": officialBinary, "org/localfront:1": localfrontBinary} {
		img, err := frontendImage(find)
		if err != nil {
			return err
		}
		if err := push(host, ref, img); err != nil {
			return err
		}
	}
	return nil
}

// adduser is the applet that Debian's busybox lacks, as "adduser -D NAME".
const adduser = `#!/bin/sh
set -e
id=$((1000 + $(grep -c ':x:1[0-9][0-9][0-9]:' /etc/passwd || true)))
echo "$2:x:$id:$id::/home/$2:/bin/sh" >> /etc/passwd
echo "$2:x:$id:" >> /etc/group
mkdir -p "/home/$2"
chown "$2:$2" "/home/$2"
`

// likeDockers makes an image of one layer more like Docker's busybox, and keeps
// it at one gzipped layer, as the suite expects of base images.
func likeDockers(img v1.Image) (v1.Image, error) {
	rc := mutate.Extract(img)
	defer rc.Close()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		err = w.WriteHeader(h)
		if _, cerr := io.Copy(w, r); err != nil || cerr != nil {
			return nil, errors.Join(err, cerr)
		}
	}
	err := errors.Join(
		// Docker's busybox has all applets in /bin.
		w.WriteHeader(&tar.Header{Name: "bin/awk", Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777, ModTime: testimage.Created}),
		w.WriteHeader(&tar.Header{Name: "usr/sbin/adduser", Mode: 0o755, Size: int64(len(adduser)), ModTime: testimage.Created}),
	)
	_, werr := io.WriteString(w, adduser)
	if err := errors.Join(err, werr, w.Close()); err != nil {
		return nil, err
	}
	return withLayer(img, buf.Bytes())
}

// withLayer is an image with the config of another, and one layer.
func withLayer(img v1.Image, layerTar []byte) (v1.Image, error) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layerTar)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	from, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	made, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: from.History[0]})
	if err != nil {
		return nil, err
	}
	c, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created, c.Config = from.OS, from.Architecture, from.Created, from.Config
	return mutate.ConfigFile(made, c)
}

// scanScript is an SBOM scanner that finds one package.
const scanScript = `
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<EOF
{
  "_type": "https://in-toto.io/Statement/v0.1",
  "predicateType": "https://spdx.dev/Document",
  "predicate": {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "$(cat "$BUILDKIT_SCAN_SOURCE/name")"}
}
EOF
`

func push(host, ref string, content remote.Taggable) error {
	tag, err := name.NewTag(host+"/"+ref, name.Insecure)
	if err != nil {
		return err
	}
	if idx, ok := content.(v1.ImageIndex); ok {
		err = remote.WriteIndex(tag, idx)
	} else {
		err = remote.Write(tag, content.(v1.Image))
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

func officialBinary() (string, error) {
	cache, err := testimage.CacheDir()
	return filepath.Join(cache, "bin", "dockerfile-frontend"), err
}

// localfrontBinary is $LOCALFRONT_FRONTEND or bin/frontend, as in testengine.
func localfrontBinary() (string, error) {
	if binary := os.Getenv("LOCALFRONT_FRONTEND"); binary != "" {
		return binary, nil
	}
	root, err := testimage.RepoRoot()
	return filepath.Join(root, "bin", "frontend"), err
}

func frontendImage(find func() (string, error)) (v1.Image, error) {
	binary, err := find()
	if err != nil {
		return nil, err
	}
	img, err := testimage.Frontend(binary, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; run make engines frontend", err)
	}
	return img, nil
}

// archive writes an image as a tarred OCI layout, the form in which BuildKit's
// suite takes the frontend under test.
func archive(t *testing.T, img v1.Image) string {
	t.Helper()
	dir := layoutDir(t, img)
	file := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// layoutDir is an OCI layout that holds an image.
func layoutDir(t *testing.T, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return dir
}
