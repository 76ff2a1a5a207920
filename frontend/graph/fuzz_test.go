package graph

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// FuzzRecorded checks what is done with a record that anybody may have written:
// nothing panics, and one that is fit for use makes whole definitions that mean
// what it means.
func FuzzRecorded(f *testing.F) {
	for _, st := range graphs() {
		rec, err := Record(define(f, st))
		if err != nil {
			f.Fatal(err)
		}
		dt, err := Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(dt)
	}
	bar := define(f, random(rand.New(rand.NewPCG(1, 1)), "foo", "alpine"))
	marker := imageScheme + pinned("foo")
	f.Fuzz(func(t *testing.T, dt []byte) {
		def, err := Unmarshal(dt)
		if err != nil {
			return
		}
		if err := Fit(def); err != nil {
			var unfit *UnfitError
			if !errors.Is(err, ErrInvalid) && !errors.As(err, &unfit) {
				t.Fatalf("an error of neither kind: %v", err)
			}
			return
		}
		rec, err := Record(def)
		if err != nil {
			t.Fatalf("fit, but cannot be recorded: %v", err)
		}
		if err := Fit(rec); err != nil {
			t.Fatalf("fit, but its record is not: %v", err)
		}
		out, err := Splice(bar, replace(map[string]*Result{marker: {Name: "foo", Definition: def}}))
		if err != nil {
			t.Fatalf("fit, but cannot be used: %v", err)
		}
		if meaning(t, out, nil) != meaning(t, bar, map[string]string{marker: meaning(t, def, nil)}) {
			t.Fatal("another result")
		}
		checkWhole(t, out)
	})
}

// FuzzSplice puts graphs of random shape together, by all the ways there are.
func FuzzSplice(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		foo, bar := define(t, random(r, "alpine", "busybox")), define(t, random(r, "alpine", "foo"))
		marker := imageScheme + pinned("foo")
		out, err := Splice(bar, replace(map[string]*Result{marker: {Name: "foo", Definition: foo}}))
		if err != nil {
			t.Fatal(err)
		}
		want := meaning(t, bar, map[string]string{marker: meaning(t, foo, nil)})
		for what, def := range map[string]*pb.Definition{"spliced": out, "recorded": record(t, out), "there and back": thereAndBack(t, out)} {
			if meaning(t, def, nil) != want {
				t.Fatalf("%s: another result", what)
			}
			checkWhole(t, def)
		}
	})
}

func record(t *testing.T, def *pb.Definition) *pb.Definition {
	t.Helper()
	rec, err := Record(def)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// thereAndBack takes all images from the builder, and then from their
// registries again.
func thereAndBack(t *testing.T, def *pb.Definition) *pb.Definition {
	t.Helper()
	back, err := Globalize(localize(t, def), storeID)
	if err != nil {
		t.Fatal(err)
	}
	return back
}
