package standin

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
)

func TestRunClearsWhatItUsed(t *testing.T) {
	t.Parallel()
	var order []string
	var dir string
	err := Run(t.Context(), "standin", func(tb *TB) {
		dir = tb.TempDir()
		tb.Cleanup(func() { order = append(order, "first") })
		tb.Cleanup(func() {
			order = append(order, "last")
			if !tb.Failed() {
				t.Error("a run that ended with Fatal has not failed")
			}
		})
		tb.Fatal("enough")
		t.Error("Fatal returned")
	})
	if err == nil || err.Error() != "enough" {
		t.Errorf("error %v, want enough", err)
	}
	if want := []string{"last", "first"}; !slices.Equal(order, want) {
		t.Errorf("cleaned up in the order %q, want %q", order, want)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestAnInterruptIsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, "standin", func(tb *TB) {
		tb.Cleanup(func() {
			if tb.Failed() {
				t.Error("failed")
			}
		})
		cancel()
		tb.Must(tb.Context().Err())
	})
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("error %v, want interrupted", err)
	}
}

func TestOtherPanicsGoOn(t *testing.T) {
	t.Parallel()
	defer func() {
		if r := recover(); r != "bug" {
			t.Errorf("recovered %v, want bug", r)
		}
	}()
	_ = Run(t.Context(), "standin", func(*TB) { panic("bug") })
	t.Error("Run returned")
}
