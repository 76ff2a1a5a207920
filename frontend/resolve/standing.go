package resolve

import (
	"context"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/ledger"
)

// Who is who answers a name.
type Who string

// The answers there are, in their order.
const (
	ByDigest   Who = "digest"
	ByLock     Who = "lock"
	ByResult   Who = "named result"
	ByMemory   Who = "memory"
	ByRegistry Who = "registry"
	ByStore    Who = "image store or registry"
	ByNobody   Who = "nobody" // a name under localhost/ that nothing was built as
)

// Standing is what is known of a name before anybody is asked.
type Standing struct {
	// Who would answer it.
	Who Who
	// Digest is what it stands for, empty where only the registry can tell.
	Digest digest.Digest
	// Since is when that was resolved or built, zero where that is not known.
	Since time.Time
	// Metadata and Layers tell whether they are on the builder.
	Metadata, Layers bool
}

// Standing says who would answer q, and never asks a registry.
func (r *Resolver) Standing(ctx context.Context, q Query) (Standing, error) {
	pin, pinned, err := r.pin(ctx, q.Name)
	if err != nil {
		return Standing{}, err
	}
	ref, carries := q.Name.(reference.Canonical)
	s := Standing{Who: ByRegistry}
	if q.Mode == Local {
		s.Who = ByStore
	}
	switch {
	case pinned:
		s.Who, ref = ByLock, pin
	case carries:
		s.Who = ByDigest
	case IsLocal(q.Name):
		s.Who = ByNobody
	}
	key := Key(q.Name)
	if ref != nil {
		key = Key(ref)
	}
	n := r.name(named(q.Name, ref))
	l := n.look(ctx, r, key, q.Name)
	if l.governed {
		return Standing{Who: s.Who}, nil
	}
	if ref == nil && l.result != nil {
		s.Who, s.Since = ByResult, l.result.Built
		_, _, ok := buildFor(l.result, q.Platform)
		s.Metadata, s.Layers = ok, ok
		return s, nil
	}
	if img := n.image(); ref == nil && img != nil {
		if q.Mode != Local && q.Mode != Pull {
			s.Who = ByMemory
		}
		s.Since = img.Resolved
		if ref, err = withDigest(q.Name, img.Digest); err != nil {
			return Standing{}, err
		}
	}
	if ref == nil {
		return s, nil
	}
	s.Digest = ref.Digest()
	line := r.line(q, "looked for on this builder")
	config, err := r.builder.Metadata(ctx, ref, q, line)
	s.Metadata = err == nil
	if p, _ := n.platform(ref.Digest(), q.Platform); s.Metadata && p.Content == ledger.Here {
		s.Layers = r.builder.Holds(ctx, ref, q.Platform, layerCount(config))
	}
	return s, nil
}

// named is the name that a record is kept under: the one with the digest if
// there is one.
func named(name reference.Named, ref reference.Canonical) reference.Named {
	if ref != nil {
		return ref
	}
	return name
}
