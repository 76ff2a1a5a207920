package main

import (
	"fmt"
	"math"
	"time"

	"github.com/aclements/go-moremath/stats"
)

// confidence is that of all intervals, benchstat's.
const confidence = 0.95

// estimate is a median and an interval that holds the true one with the given
// confidence. It assumes nothing of how values are spread, as benchstat does
// not.
type estimate struct{ median, lo, hi float64 }

func estimateOf(values []float64) estimate {
	sample := stats.Sample{Xs: values}
	m, lo, hi := stats.QuantileCI(len(values), 0.5, confidence).SampleCI(*sample.Copy().Sort())
	return estimate{m, lo, hi}
}

// spread is the interval's wider half in percent of the median, such as "±3%".
func (e estimate) spread() string {
	d := max(e.hi-e.median, e.median-e.lo) / e.median
	if math.IsInf(d, 0) || math.IsNaN(d) {
		return "±∞"
	}
	return fmt.Sprintf("±%.0f%%", math.Ceil(100*d))
}

// quotients are what each pair gives: ours over theirs.
func quotients(ours, theirs []float64) []float64 {
	q := make([]float64, len(ours))
	for i := range ours {
		q[i] = ours[i] / theirs[i]
	}
	return q
}

// differences are what each pair gives: ours less theirs.
func differences(ours, theirs []float64) []float64 {
	d := make([]float64, len(ours))
	for i := range ours {
		d[i] = ours[i] - theirs[i]
	}
	return d
}

// perFurther is what each of the bases beyond the first adds, in the unit of
// the values, pair by pair.
func perFurther(few, many []float64, further int) []float64 {
	d := differences(many, few)
	for i := range d {
		d[i] /= float64(further)
	}
	return d
}

// milliseconds returns d as a number.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
