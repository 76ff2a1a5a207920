package testregistry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// strict puts in front of go-containerregistry's registry what it leaves out
// of the distribution registry's behaviour.
func (r *Registry) strict(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		q := classify(req)
		read := req.Method == http.MethodGet || req.Method == http.MethodHead
		switch {
		case q.Kind == Ping:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		case q.Kind == Blob && read:
			r.serveBlob(w, req, q)
		case q.Kind == Manifest && read:
			serveManifest(w, req, q, inner)
		case q.Kind == Manifest && req.Method == http.MethodPut:
			r.putManifest(w, req, q, inner)
		case q.Kind == Referrers:
			// Distribution has no such endpoint: clients fall back to a tag.
			http.NotFound(w, req)
		case q.Kind == Tags:
			w.Header().Set("Content-Type", "application/json")
			inner.ServeHTTP(w, req)
		default:
			inner.ServeHTTP(w, req)
		}
	})
}

// serveBlob answers with a blob of this repository; http.ServeContent knows
// open ranges and HEAD, which resuming clients use.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, q *Request) {
	h, err := v1.NewHash(q.Reference)
	if err != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	blob, ok := r.blobs.get(q.Repository, h)
	if !ok {
		writeError(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", h.String())
	w.Header().Set("Etag", strconv.Quote(h.String()))
	w.Header().Set("Cache-Control", "max-age=31536000")
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
}

// serveManifest refuses OCI images to clients that do not accept them (indexes
// it gives to all, which is what the distribution registry does), and uses one
// error code for unknown repositories and unknown tags.
func serveManifest(w http.ResponseWriter, req *http.Request, q *Request, inner http.Handler) {
	if _, err := v1.NewHash(q.Reference); err != nil && strings.Contains(q.Reference, ":") {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	found := newMemoryWriter()
	inner.ServeHTTP(found, req)
	mediaType := found.header.Get("Content-Type")
	refused := mediaType == string(types.OCIManifestSchema1) && !accepts(req, mediaType)
	if found.code() == http.StatusNotFound || refused {
		writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	etag := strconv.Quote(found.header.Get("Docker-Content-Digest"))
	if req.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	for k, v := range found.header {
		w.Header()[k] = v
	}
	w.Header().Set("Etag", etag)
	w.WriteHeader(found.code())
	_, _ = w.Write(found.body.Bytes())
}

// accepts compares as the distribution registry does: no wildcards.
func accepts(req *http.Request, mediaType string) bool {
	for _, line := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.TrimSpace(name) == mediaType {
				return true
			}
		}
	}
	return false
}

// putManifest refuses a manifest whose blobs the repository does not have, and
// a digest that is not the manifest's.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, q *Request, inner http.Handler) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		writeError(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	if want, err := v1.NewHash(q.Reference); err == nil {
		if got, _, err := v1.SHA256(bytes.NewReader(body)); err != nil || got != want {
			writeError(w, http.StatusBadRequest, "DIGEST_INVALID")
			return
		}
	}
	var m struct {
		Config *v1.Descriptor  `json:"config"`
		Layers []v1.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		writeError(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	needed := m.Layers
	if m.Config != nil {
		needed = append(needed, *m.Config)
	}
	var missing []string
	for _, d := range needed {
		if _, ok := r.blobs.get(q.Repository, d.Digest); !ok && len(d.URLs) == 0 {
			missing = append(missing, "MANIFEST_BLOB_UNKNOWN")
		}
	}
	if len(missing) > 0 {
		writeError(w, http.StatusBadRequest, missing...)
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	inner.ServeHTTP(w, req)
}

// blobStore keeps blobs by repository: one repository's blob is unknown in
// another, as in a registry that checks access.
type blobStore struct {
	mu    sync.RWMutex
	blobs map[string][]byte
}

var (
	_ registry.BlobHandler       = (*blobStore)(nil)
	_ registry.BlobStatHandler   = (*blobStore)(nil)
	_ registry.BlobPutHandler    = (*blobStore)(nil)
	_ registry.BlobDeleteHandler = (*blobStore)(nil)
)

func newBlobStore() *blobStore { return &blobStore{blobs: map[string][]byte{}} }

func blobKey(repo string, h v1.Hash) string { return repo + "@" + h.String() }

func (s *blobStore) get(repo string, h v1.Hash) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[blobKey(repo, h)]
	return b, ok
}

// Get implements registry.BlobHandler.
func (s *blobStore) Get(_ context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	b, ok := s.get(repo, h)
	if !ok {
		return nil, registry.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Stat implements registry.BlobStatHandler.
func (s *blobStore) Stat(_ context.Context, repo string, h v1.Hash) (int64, error) {
	b, ok := s.get(repo, h)
	if !ok {
		return 0, registry.ErrNotFound
	}
	return int64(len(b)), nil
}

// Put implements registry.BlobPutHandler. The reader verifies size and digest.
// Uploads name the repository with their own path's tail, which is cut off.
func (s *blobStore) Put(_ context.Context, repo string, h v1.Hash, rc io.ReadCloser) error {
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", h, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[blobKey(strings.TrimSuffix(repo, "/blobs"), h)] = b
	return nil
}

// layers are the layers of images that were pushed to any registry of this
// process, by digest. Most tests push the same few, and some are large.
var layers sync.Map

// fill takes the layers of an image that is about to be pushed.
func (s *blobStore) fill(repo string, img v1.Image) error {
	all, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range all {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		data, ok := layers.Load(h)
		if !ok {
			rc, err := l.Compressed()
			if err != nil {
				return err
			}
			data, err = io.ReadAll(rc)
			if err = errors.Join(err, rc.Close()); err != nil {
				return fmt.Errorf("read layer %s: %w", h, err)
			}
			layers.Store(h, data)
		}
		s.mu.Lock()
		s.blobs[blobKey(repo, h)] = data.([]byte)
		s.mu.Unlock()
	}
	return nil
}

// Delete implements registry.BlobDeleteHandler.
func (s *blobStore) Delete(_ context.Context, repo string, h v1.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[blobKey(repo, h)]; !ok {
		return registry.ErrNotFound
	}
	delete(s.blobs, blobKey(repo, h))
	return nil
}
