package fakegateway

import (
	"context"
	"slices"
	"strings"
	"sync"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// Kind is what a logged call is.
type Kind string

const (
	// Resolve asks for the metadata of a source.
	Resolve Kind = "resolve"
	// Solve hands over a definition. Nothing runs yet.
	Solve Kind = "solve"
	// Read reads a file of a result, which evaluates it.
	Read Kind = "read"
	// Stat stats a file of a result, which evaluates it.
	Stat Kind = "stat"
	// List lists a folder of a result, which evaluates it.
	List Kind = "list"
	// Evaluate evaluates a result.
	Evaluate Kind = "evaluate"
	// Warn shows a warning.
	Warn Kind = "warn"
	// Inputs asks for the inputs of the build.
	Inputs Kind = "inputs"
	// Request is a request to a registry.
	Request Kind = "request"
	// Container is a container that is started.
	Container Kind = "container"
)

// Call is one logged event.
type Call struct {
	Kind Kind
	// What says what it is about: the source and the platform, the result of
	// the definition, the request, the arguments of the container.
	What string
	// Line is the progress line that a Resolve asks for.
	Line string
	// Definition is what a Solve solves.
	Definition *pb.Definition
	// Request is the whole request of a Solve.
	Request *gwpb.SolveRequest
	// Warning is what a Warn shows.
	Warning *gwpb.WarnRequest
}

// Fault makes calls fail.
type Fault struct {
	Kind Kind
	// Match must be part of What.
	Match string
	// Err is returned. Without it the call hangs until its context ends.
	Err error
	// Times is how often it happens, 0 for always.
	Times int
}

// log is the log of a builder, and the faults of the calls it sees.
type log struct {
	mu     sync.Mutex
	calls  []Call
	faults []*Fault
}

// add logs a call and returns the error injected into it.
func (l *log) add(ctx context.Context, c Call) error {
	l.mu.Lock()
	l.calls = append(l.calls, c)
	var hit *Fault
	for i, f := range l.faults {
		if f.Kind != c.Kind || !strings.Contains(c.What, f.Match) {
			continue
		}
		hit = f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				l.faults = slices.Delete(l.faults, i, i+1)
			}
		}
		break
	}
	l.mu.Unlock()
	if hit == nil {
		return context.Cause(ctx)
	}
	if hit.Err != nil {
		return hit.Err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// Inject adds a fault.
func (b *Builder) Inject(f Fault) {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	b.log.faults = append(b.log.faults, &f)
}

// Heal removes all faults.
func (b *Builder) Heal() {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	b.log.faults = nil
}

// Calls returns the logged calls of some kinds, of all without any, in order.
func (b *Builder) Calls(kinds ...Kind) []Call {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	var out []Call
	for _, c := range b.log.calls {
		if len(kinds) == 0 || slices.Contains(kinds, c.Kind) {
			out = append(out, c)
		}
	}
	return out
}

// Requests returns the requests that registries got, in order.
func (b *Builder) Requests() []string { return whats(b.Calls(Request)) }

// Containers returns the arguments of the containers started, in order.
func (b *Builder) Containers() []string { return whats(b.Calls(Container)) }

// Lines returns the progress lines of the metadata requests, in order.
func (b *Builder) Lines() []string {
	var out []string
	for _, c := range b.Calls(Resolve) {
		out = append(out, c.Line)
	}
	return out
}

// Warnings returns the warnings that a user sees: those attached to a vertex of
// a definition solved (util/progress/progressui drops all others).
func (b *Builder) Warnings() []string {
	seen := map[string]bool{}
	for _, c := range b.Calls(Solve) {
		for d := range operations(c.Definition) {
			seen[d] = true
		}
	}
	var out []string
	for _, c := range b.Calls(Warn) {
		if seen[c.Warning.Digest] {
			out = append(out, string(c.Warning.Short))
		}
	}
	return out
}

// ClearLog empties the log.
func (b *Builder) ClearLog() {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	b.log.calls = nil
}

func whats(calls []Call) []string {
	var out []string
	for _, c := range calls {
		out = append(out, c.What)
	}
	return out
}
