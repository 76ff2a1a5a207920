package main

import (
	"math"
	"strings"
	"testing"
)

func TestEstimate(t *testing.T) {
	t.Parallel()
	var values []float64
	for i := 15; i >= 1; i-- { // not sorted
		values = append(values, float64(i))
	}
	if got, want := estimateOf(values), (estimate{8, 4, 12}); got != want {
		t.Errorf("estimate of 1 to 15 is %v, want %v", got, want)
	}
	if values[0] != 15 {
		t.Error("the values were put in another order")
	}
	if got := (estimate{8, 4, 12}).spread(); got != "±50%" {
		t.Errorf("spread is %s", got)
	}
	few := estimateOf([]float64{1, 2, 3})
	if !math.IsInf(few.hi, 1) || few.spread() != "±∞" {
		t.Errorf("three values give the interval %v, %s", few, few.spread())
	}
}

func TestPairwise(t *testing.T) {
	t.Parallel()
	ours, theirs := []float64{2, 9, 4}, []float64{1, 3, 4}
	if got, want := quotients(ours, theirs), []float64{2, 3, 1}; !equal(got, want) {
		t.Errorf("quotients %v, want %v", got, want)
	}
	if got, want := differences(ours, theirs), []float64{1, 6, 0}; !equal(got, want) {
		t.Errorf("differences %v, want %v", got, want)
	}
	if got, want := perFurther(theirs, ours, 2), []float64{0.5, 3, 0}; !equal(got, want) {
		t.Errorf("per further %v, want %v", got, want)
	}
}

func equal(a, b []float64) bool {
	for i := range a {
		if math.Abs(a[i]-b[i]) > 1e-9 {
			return false
		}
	}
	return len(a) == len(b)
}

func TestReadInits(t *testing.T) {
	t.Parallel()
	got := readInits(strings.NewReader("init runtime @0.031 ms, 0.5 ms clock, 1168 bytes, 12 allocs\ninit os @4.6 ms, 0.25 ms clock, 32 bytes, 1 allocs\nelse\n"))
	if want := (initialisation{ms: 0.75, bytes: 1200, packages: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
