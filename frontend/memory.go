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
)

// memory is the ledger as package resolve sees it: reading never fails.
type memory struct {
	ledger *ledger.Ledger // nil where defect says why
	defect error
	warner *builderQueries
	gaveUp atomic.Bool // a read took too long, and no other shall
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
