package testregistry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The helpers here work on the content directly: they pass by the log, the
// faults and tokens, and also work while the registry is stopped.

// Push stores an image (v1.Image) or index (v1.ImageIndex) under a name of this
// registry such as "library/alpine:3.20", moves the tag if it exists, and
// returns the digest.
func (r *Registry) Push(ref string, content remote.Taggable) (string, error) {
	dst, err := r.parse(ref)
	if err != nil {
		return "", err
	}
	switch c := content.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(dst, c, r.direct())
	case v1.Image:
		if err = r.blobs.fill(dst.Context().RepositoryStr(), c); err == nil {
			err = remote.Write(dst, c, r.direct())
		}
	default:
		err = fmt.Errorf("a %T is neither image nor index", content)
	}
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return r.Digest(ref)
}

// Tag makes the name dst stand for what src, a tag or digest of the same
// repository, stands for now.
func (r *Registry) Tag(src, dst string) error {
	from, err := r.parse(src)
	if err != nil {
		return err
	}
	to, err := name.NewTag(r.Ref(dst))
	if err != nil {
		return fmt.Errorf("parse %s: %w", dst, err)
	}
	desc, err := remote.Get(from, r.direct())
	if err != nil {
		return fmt.Errorf("tag %s: %w", src, err)
	}
	if err := remote.Tag(to, desc, r.direct()); err != nil {
		return fmt.Errorf("tag %s: %w", dst, err)
	}
	return nil
}

// Digest is what a name stands for now, "sha256:…".
func (r *Registry) Digest(ref string) (string, error) {
	parsed, err := r.parse(ref)
	if err != nil {
		return "", err
	}
	desc, err := remote.Head(parsed, r.direct())
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", ref, err)
	}
	return desc.Digest.String(), nil
}

// Delete removes a name. A tag ("alpine:3.20") goes alone; with a digest
// ("alpine@sha256:…") the manifest goes and every tag of it. Blobs stay, as
// they do until a registry collects its garbage.
func (r *Registry) Delete(ref string) error {
	parsed, err := r.parse(ref)
	if err != nil {
		return err
	}
	if digest, ok := parsed.(name.Digest); ok {
		if err := r.untag(digest); err != nil {
			return err
		}
	}
	if err := remote.Delete(parsed, r.direct()); err != nil {
		return fmt.Errorf("delete %s: %w", ref, err)
	}
	return nil
}

// untag removes every tag of a digest.
func (r *Registry) untag(digest name.Digest) error {
	tags, err := remote.List(digest.Context(), r.direct())
	if err != nil {
		return fmt.Errorf("list tags of %s: %w", digest.Context(), err)
	}
	for _, t := range tags {
		tag := digest.Context().Tag(t)
		desc, err := remote.Head(tag, r.direct())
		if err != nil {
			return fmt.Errorf("look up %s: %w", tag, err)
		}
		if desc.Digest.String() != digest.DigestStr() {
			continue
		}
		if err := remote.Delete(tag, r.direct()); err != nil {
			return fmt.Errorf("delete %s: %w", tag, err)
		}
	}
	return nil
}

func (r *Registry) parse(ref string) (name.Reference, error) {
	parsed, err := name.ParseReference(r.Ref(ref))
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", ref, err)
	}
	return parsed, nil
}

func (r *Registry) direct() remote.Option { return remote.WithTransport(directTransport{r.handler}) }

// directTransport hands requests to the content handler without a connection.
type directTransport struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (d directTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "http" {
		// The first ping tries https, as with a real plain-http registry.
		return nil, errors.New("http: server gave HTTP response to HTTPS client")
	}
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.URL.Host = "" // a server sees only the path
	w := newMemoryWriter()
	d.handler.ServeHTTP(w, in)
	_ = in.Body.Close()
	return &http.Response{
		Status:        http.StatusText(w.code()),
		StatusCode:    w.code(),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.header,
		Body:          io.NopCloser(bytes.NewReader(w.body.Bytes())),
		ContentLength: int64(w.body.Len()),
		Request:       req,
	}, nil
}
