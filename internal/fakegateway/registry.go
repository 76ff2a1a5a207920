package fakegateway

import (
	"context"
	"fmt"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Registry is every registry of the world. Its requests read
// "HEAD docker.io/library/alpine:3.20" and
// "GET docker.io/library/alpine manifest linux/amd64".
type Registry struct {
	log *log

	mu    sync.Mutex
	tags  map[string]digest.Digest
	repos map[string]map[digest.Digest]*blob
	down  map[string]error
}

// Push stores an image under a name, moves the tag if there is one, and
// returns the digest.
func (r *Registry) Push(name string, img Image) digest.Digest {
	named := normalized(name)
	root, blobs := img.build()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos[named.Name()] == nil {
		r.repos[named.Name()] = map[digest.Digest]*blob{}
	}
	for d, bl := range blobs {
		r.repos[named.Name()][d] = bl
	}
	r.tags[named.String()] = root
	return root
}

// Delete removes a tag, or for a reference with a digest the manifest.
func (r *Registry) Delete(name string) {
	named := normalized(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := named.(reference.Canonical); ok {
		delete(r.repos[named.Name()], c.Digest())
		return
	}
	delete(r.tags, named.String())
}

// Down makes each request to a host fail, until Down with nil.
func (r *Registry) Down(host string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down[host] = err
}

// head resolves a reference as docker.Resolver.Resolve does.
func (r *Registry) head(ctx context.Context, ref reference.Named) (digest.Digest, error) {
	if err := r.request(ctx, ref, "HEAD "+ref.String()); err != nil {
		return "", fmt.Errorf("failed to do request: Head %q: %w", ref, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.tags[ref.String()]
	if c, pinned := ref.(reference.Canonical); pinned {
		d = c.Digest()
		_, ok = r.repos[ref.Name()][d]
	}
	if !ok {
		return "", fmt.Errorf("%s: %w", ref, cerrdefs.ErrNotFound)
	}
	return d, nil
}

// get fetches a blob.
func (r *Registry) get(ctx context.Context, ref reference.Named, d digest.Digest) ([]byte, error) {
	r.mu.Lock()
	bl := r.repos[ref.Name()][d]
	r.mu.Unlock()
	what := d.String()
	if bl != nil {
		what = bl.what
	}
	if err := r.request(ctx, ref, "GET "+ref.Name()+" "+what); err != nil {
		return nil, fmt.Errorf("failed to do request: Get %q: %w", ref.Name()+"@"+d.String(), err)
	}
	if bl == nil {
		return nil, fmt.Errorf("failed to copy: content at %s@%s not found: %w", ref.Name(), d, cerrdefs.ErrNotFound)
	}
	return bl.data, nil
}

func (r *Registry) request(ctx context.Context, ref reference.Named, what string) error {
	if err := r.log.add(ctx, Call{Kind: Request, What: what}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	host, _, _ := strings.Cut(ref.Name(), "/")
	return r.down[host]
}
