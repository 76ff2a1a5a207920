package frontend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/resolve"
)

// memory is the ledger as package resolve sees it: reading never fails.
type memory struct {
	ledger     *ledger.Ledger // nil where defect says why
	defect     error
	warner     *builderQueries
	gaveUp     atomic.Bool // a read took too long, and no other shall
	hasResults func() bool // see foresee
	foreseen   atomic.Bool
}

func newMemory(c client.Client, w *builderQueries, scope string) *memory {
	l, err := ledger.New(c, graph.Guard)
	if err == nil {
		l = l.In(scope)
	}
	return &memory{ledger: l, defect: err, warner: w}
}

// Read returns what is remembered under key of named.
func (m *memory) Read(ctx context.Context, key string, named reference.Named) (_ ledger.Entry, governed bool) {
	if m.gaveUp.Load() {
		return ledger.Entry{}, false
	}
	if m.ledger == nil {
		m.warner.warnOnce(ctx, "ledger", fmt.Sprintf("names are not remembered: %v", m.defect))
		return ledger.Entry{}, false
	}
	e, _, err := m.ledger.Read(ctx, key, imageScheme+named.String())
	switch {
	case errors.Is(err, ledger.ErrGoverned):
		return ledger.Entry{}, true
	case errors.Is(err, ledger.ErrTimeout):
		m.gaveUp.Store(true)
		fallthrough
	case err != nil && ctx.Err() == nil:
		m.warner.warnOnce(ctx, "read", fmt.Sprintf("what is remembered of %s cannot be read, so it counts as unknown: %v", key, err))
	}
	return e, false
}

// foresee begins to read whether this builder has any named result at all, while
// the Dockerfile is still on its way. Builders without save themselves a look
// for each name. A build that makes one looks at once.
func (m *memory) foresee(ctx context.Context, going *sync.WaitGroup) {
	if m.ledger == nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	m.hasResults = sync.OnceValue(func() bool {
		has, err := m.ledger.Any(ctx)
		m.foreseen.Store(true)
		return has || err != nil
	})
	going.Go(func() { m.hasResults() })
}

// waiting reports whether what foresee began is still going on, which is seldom:
// once on a builder, a container has to be started for it.
func (m *memory) waiting() bool { return m.hasResults != nil && !m.foreseen.Load() }

// Governed reports whether a source policy of this build governs a name. On a
// builder without a ledger nobody can tell, as in Read.
func (m *memory) Governed(ctx context.Context, named reference.Named) bool {
	if m.ledger == nil || m.gaveUp.Load() {
		return false
	}
	governed, err := m.ledger.Governed(ctx, imageScheme+named.String())
	if errors.Is(err, ledger.ErrTimeout) {
		m.gaveUp.Store(true)
	}
	if err != nil && ctx.Err() == nil {
		m.warner.warnOnce(ctx, "policy", fmt.Sprintf("nobody can tell whether a source policy governs %s: %v", named, err))
	}
	return governed
}

// Result returns what was last built under key. What cannot be read or used
// counts as absent, with a warning, since another image may take its place.
func (m *memory) Result(ctx context.Context, key string) *ledger.Result {
	if m.ledger == nil || m.hasResults != nil && !m.hasResults() {
		return nil
	}
	r, err := m.ledger.Result(ctx, key)
	if err == nil && r != nil {
		err = fit(r)
	}
	if err == nil {
		return r
	}
	if ctx.Err() == nil {
		m.warner.warnOnce(ctx, "result "+key, fmt.Sprintf("what was built as %s on this builder cannot be used, so it counts as unknown: build it again: %v", resolve.Short(key), err))
	}
	return nil
}

// fit checks that each build of r can be used.
func fit(r *ledger.Result) error {
	for p, b := range r.Platforms {
		def, err := graph.Unmarshal(b.Definition)
		if err != nil {
			return fmt.Errorf("for %s: %w", p, err)
		}
		if err := graph.Fit(def); err != nil {
			return fmt.Errorf("for %s: %w", p, err)
		}
	}
	return nil
}

// Names lists what builds of this builder were named.
func (m *memory) Names(ctx context.Context) []string {
	if m.ledger == nil {
		return nil
	}
	names, err := m.ledger.Names(ctx)
	if err != nil && ctx.Err() == nil {
		m.warner.warnOnce(ctx, "names", fmt.Sprintf("the list of named results cannot be read: %v", err))
	}
	return names
}

// write records entries, all at once. What fails is a warning.
func (m *memory) write(ctx context.Context, entries map[string]ledger.Entry) {
	if m.ledger == nil || m.gaveUp.Load() {
		return
	}
	var wg sync.WaitGroup
	for key, e := range entries {
		wg.Go(func() {
			if err := m.ledger.Write(ctx, key, e); err != nil && ctx.Err() == nil {
				m.warner.warnOnce(ctx, "write", fmt.Sprintf("%s is not remembered: %v", key, err))
			}
		})
	}
	wg.Wait()
}
