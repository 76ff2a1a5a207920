// Package standin runs test doubles outside of tests: its TB stands in for a
// test where the demo or the benchmarks start the engines that
// internal/testengine makes for tests. It does what those need and no more.
package standin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// TB stands in for a test. What a test would fail by ends Run.
type TB struct {
	testing.TB // nil: only the methods below are there

	ctx      context.Context
	name     string
	cleanups []func()
	failed   bool
}

// end is what ends a run early, as a panic.
type end struct {
	err   error
	quiet bool // logs have nothing to add
}

// Run calls play, and then what play has registered with Cleanup, last first,
// also when play fails or ctx ends. The name is that of temporary folders.
func Run(ctx context.Context, name string, play func(*TB)) (err error) {
	t := &TB{ctx: ctx, name: name}
	defer t.clear()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case end:
			t.failed, err = !r.quiet, r.err
			if ctx.Err() != nil {
				t.failed, err = false, errors.New("interrupted")
			}
		default:
			panic(r)
		}
	}()
	play(t)
	return nil
}

func (t *TB) clear() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

// End ends the run with err where no log of an engine can say more.
func (*TB) End(err error) { panic(end{err: err, quiet: true}) }

// Must ends the run if err is not nil.
func (t *TB) Must(err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// Helper implements testing.TB.
func (*TB) Helper() {}

// Name implements testing.TB.
func (t *TB) Name() string { return t.name }

// Context implements testing.TB.
func (t *TB) Context() context.Context { return t.ctx }

// Cleanup implements testing.TB.
func (t *TB) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

// Failed implements testing.TB.
func (t *TB) Failed() bool { return t.failed }

// Logf implements testing.TB.
func (*TB) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Error implements testing.TB. Only cleaning up calls it, which goes on.
func (t *TB) Error(args ...any) { t.Logf("%s", fmt.Sprint(args...)) }

// Errorf implements testing.TB, like Error.
func (t *TB) Errorf(format string, args ...any) { t.Logf(format, args...) }

// Fatal implements testing.TB.
func (*TB) Fatal(args ...any) { panic(end{err: errors.New(fmt.Sprint(args...))}) }

// Fatalf implements testing.TB.
func (*TB) Fatalf(format string, args ...any) { panic(end{err: fmt.Errorf(format, args...)}) }

// TempDir implements testing.TB.
func (t *TB) TempDir() string {
	dir, err := os.MkdirTemp("", t.name)
	t.Must(err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
