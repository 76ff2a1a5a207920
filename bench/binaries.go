package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/org/localfront/internal/testengine"
)

// size is one property of the two binaries.
type size struct {
	what         string
	theirs, ours float64
	format       string // of a value
	target       string
}

func (z size) text(v float64) string { return fmt.Sprintf(z.format, v) }

// binaries is case (k): what the frontends weigh, how they start, and the
// memory of one that runs case (a).
func binaries(ctx context.Context, s settings) ([]size, error) {
	var sizes []size
	err := onBench(ctx, s, true, func(b *bench) {
		fmt.Fprintln(os.Stderr, "k: the binaries")
		theirs, ours := testengine.Bin(b, "dockerfile-frontend"), testengine.LocalfrontBinary(b)
		var tStart, oStart []float64
		for range s.warmup + 2*s.pairs {
			tStart = append(tStart, b.version(theirs))
			oStart = append(oStart, b.version(ours))
		}
		tInit, oInit := b.inits(theirs), b.inits(ours)
		tPeak, oPeak := b.peaks()
		sizes = []size{
			{"binary, MB", b.bytes(theirs) / 1e6, b.bytes(ours) / 1e6, "%.1f", ""},
			{"image, compressed, MB", b.compressed(theirs) / 1e6, b.compressed(ours) / 1e6, "%.1f", "≤ 1.10"},
			{"`--version`, ms", estimateOf(tStart).median, estimateOf(oStart).median, "%.1f", ""},
			{"initialisation, ms", tInit.ms, oInit.ms, "%.2f", ""},
			{"initialisation, allocated, kB", tInit.bytes / 1e3, oInit.bytes / 1e3, "%.0f", ""},
			{"initialisation, packages that do something", tInit.packages, oInit.packages, "%.0f", ""},
			{"peak memory, case a, MiB", tPeak, oPeak, "%.1f", ""},
		}
	})
	return sizes, err
}

// version is how long "--version" takes, in milliseconds.
func (b *bench) version(binary string) float64 {
	start := time.Now()
	b.Must(exec.CommandContext(b.Context(), binary, "--version").Run())
	return milliseconds(time.Since(start))
}

// initialisation is what Go does before main.
type initialisation struct{ ms, bytes, packages float64 }

// inits takes the fastest of some starts: initialisation is the same each time,
// and whatever is slower was disturbed.
func (b *bench) inits(binary string) initialisation {
	var best initialisation
	for range b.settings.pairs {
		cmd := exec.CommandContext(b.Context(), binary, "--version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		var trace bytes.Buffer
		cmd.Stderr = &trace
		b.Must(cmd.Run())
		if i := readInits(&trace); best.packages == 0 || i.ms < best.ms {
			best = i
		}
	}
	return best
}

// readInits adds up the lines of a trace:
//
//	init NAME @0.42 ms, 0.013 ms clock, 1168 bytes, 12 allocs
func readInits(trace io.Reader) initialisation {
	var sum initialisation
	for lines := bufio.NewScanner(trace); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 11 || f[0] != "init" {
			continue
		}
		ms, _ := strconv.ParseFloat(f[4], 64)
		n, _ := strconv.ParseFloat(f[7], 64)
		sum.ms += ms
		sum.bytes += n
		sum.packages++
	}
	return sum
}

// peaks are the medians of the memory that each frontend took, in MiB.
func (b *bench) peaks() (theirs, ours float64) {
	tDir, oDir := b.both(usual...)
	var t, o []float64
	for range b.settings.warmup + 5 {
		t = append(t, b.reported(b.building(tDir)).peak())
		o = append(o, b.reported(b.building(oDir)).peak())
	}
	return estimateOf(t).median, estimateOf(o).median
}

// reported takes a turn and returns its counts.
func (b *bench) reported(t turn) counts {
	var s side
	b.take(&s, t)
	if len(s.counts.reports) == 0 {
		b.Fatal("no frontend has reported: the daemon's log has no line of gatewaycount")
	}
	return s.counts
}

func (c counts) peak() float64 { return float64(c.reports[0].Peak) / 1024 }

func (b *bench) bytes(path string) float64 {
	info, err := os.Stat(path)
	b.Must(err)
	return float64(info.Size())
}

// compressed is the size of a file in an image as registries hold it.
func (b *bench) compressed(path string) float64 {
	dt, err := os.ReadFile(path)
	b.Must(err)
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err = w.Write(dt)
	b.Must(err)
	b.Must(w.Close())
	return float64(out.Len())
}
