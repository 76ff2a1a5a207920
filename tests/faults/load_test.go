package faults

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
)

// memoryBound is the most memory that a frontend may ever take, in bytes. Go
// and BuildKit's own code take a third of it in a small build.
const memoryBound = 256 << 20

// meter measures the memory of frontends while builds run.
type meter struct {
	peak atomic.Int64
	stop context.CancelFunc
	done sync.WaitGroup
}

// meter starts to measure.
func (r *rig) meter(t *testing.T) *meter {
	ctx, cancel := context.WithCancel(t.Context())
	m := &meter{stop: cancel}
	m.done.Go(func() {
		for ctx.Err() == nil {
			for _, p := range r.Processes() {
				if p.Runs("frontend") {
					m.peak.Store(max(m.peak.Load(), p.PeakMemory()))
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return m
}

// check ends measuring and checks the bound. It returns what was measured, in
// words.
func (m *meter) check(t *testing.T) string {
	t.Helper()
	m.stop()
	m.done.Wait()
	peak := m.peak.Load()
	if peak > memoryBound {
		t.Errorf("a frontend took %d MiB of memory, more than %d", peak>>20, int64(memoryBound)>>20)
	}
	return fmt.Sprintf("a frontend took %d MiB at most", peak>>20)
}

// bases pushes n small images and returns their names.
func (r *rig) bases(t *testing.T, n int) []string {
	t.Helper()
	var names []string
	for i := range n {
		name := fmt.Sprintf("small%d:1", i)
		img, err := testimage.Static("linux/amd64", map[string]string{"/etc/release": name + "\n"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.images.Push(name, img); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// copies is a build with files of images, each of which has its name in it.
func (r *rig) copies(names []string, more ...string) turn {
	u := turn{files: map[string]string{}}
	lines := []string{"FROM scratch"}
	for i, name := range names {
		lines = append(lines, fmt.Sprintf("COPY --from=REG/%s /etc/release /f%d", name, i))
		u.files[fmt.Sprintf("f%d", i)] = name
	}
	u.opt = testengine.BuildOpt{Dockerfile: r.dockerfile("", append(lines, more...)...)}
	return u
}

// TestManyNames: one build with more names than fit a few seconds of starting
// agents. Each has to be remembered: the next build works without a registry.
func TestManyNames(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	total, atOnce := times(20, 1000), 20
	names := r.bases(t, total)
	m := r.meter(t)
	var longest time.Duration
	var builds []turn
	for i := 0; i < total; i += atOnce {
		u := r.copies(names[i : i+atOnce])
		o := r.mustBuild(t, u.opt, u.files)
		longest = max(longest, o.took)
		if w := o.res.WarningText(); w != "" {
			t.Errorf("warnings:\n%s", w)
		}
		builds = append(builds, u)
		progress(t, i+atOnce, total, "")
	}
	r.images.Stop()
	for _, u := range builds {
		longest = max(longest, r.mustBuild(t, u.opt, u.files).took)
	}
	measured(t, figure{fmt.Sprintf("many names, %d in each build", atOnce), total,
		"each remembered: built again without the registry; " + m.check(t), longest})
}

// TestManyBuilds: builds at once that read and write what is remembered. None
// may fail, and nothing may be lost.
func TestManyBuilds(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.byImage = true
	n := times(8, 100)
	names := r.bases(t, 8)
	m := r.meter(t)
	pull := func(i int) bool { return i%5 == 0 }
	longest := together(n, func(i int) time.Duration {
		// Neighbours share names; one in five asks the registry and writes.
		u := r.copies([]string{names[i%8], names[(i+1)%8]}, fmt.Sprintf("LABEL turn=%d", i))
		if pull(i) {
			u.opt.Opts = map[string]string{"image-resolve-mode": "pull"}
		}
		o := r.build(t.Context(), t, u.opt)
		if o.err != nil {
			t.Errorf("build %d: %v\n%s", i, o.err, o.res)
			return 0
		}
		for name, want := range u.files {
			if got := o.file(name); got != want {
				t.Errorf("build %d: %s is %q, want %q", i, name, got, want)
			}
		}
		return o.took
	})
	r.images.Stop()
	u := r.copies(names)
	r.mustBuild(t, u.opt, u.files)
	measured(t, figure{"builds at once", n, "all right, every name remembered; " + m.check(t), longest})
}

// together runs n builds at once and returns what took longest.
func together(n int, build func(i int) time.Duration) time.Duration {
	var wg sync.WaitGroup
	took := make([]time.Duration, n)
	for i := range n {
		wg.Go(func() { took[i] = build(i) })
	}
	wg.Wait()
	var longest time.Duration
	for _, d := range took {
		longest = max(longest, d)
	}
	return longest
}

// TestPrunedAllTheTime builds while everything that can be collected is
// collected, again and again.
func TestPrunedAllTheTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var prunes atomic.Int64
	c := r.Client(t)
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := c.Prune(ctx, nil, client.PruneAll); err == nil {
				prunes.Add(1)
			}
			// Many times in each step is enough, and leaves the steps a processor.
			time.Sleep(20 * time.Millisecond)
		}
	})
	n := times(2, 60)
	var longest time.Duration
	failures := map[string]int{}
	for i := range n {
		u := r.turn(i)
		o := r.build(t.Context(), t, u.opt)
		u.check(t, o)
		progress(t, i+1, n, "%d prunes", prunes.Load())
		longest = max(longest, o.took)
		if o.err != nil {
			failures[o.err.Error()]++
		}
	}
	cancel()
	wg.Wait()
	for text, count := range failures {
		t.Errorf("%d builds failed: %s", count, text)
	}
	r.mustBuild(t, r.turn(n).opt, r.turn(n).files)
	measured(t, figure{"garbage collection all the time", n,
		fmt.Sprintf("all right, during %d prunes of everything", prunes.Load()), longest})
}

// churn is one builder's day in short: new names, names that move, builds that
// are given up, collections and restarts.
func TestChurn(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	rnd := random(t)
	rounds := times(2, 30)
	var longest time.Duration
	for round := range rounds {
		r.push(t, "moving:1", fmt.Sprintf("release %d", round))
		moved := func(opts map[string]string) testengine.BuildOpt {
			return testengine.BuildOpt{Opts: opts, Dockerfile: r.dockerfile("", "FROM scratch", "COPY --from=REG/moving:1 /etc/release /out")}
		}
		// Somebody asks, which is news for everybody after.
		r.mustBuild(t, moved(map[string]string{"image-resolve-mode": "pull"}), map[string]string{"out": fmt.Sprintf("release %d", round)})
		took := together(4, func(int) time.Duration {
			o := r.build(t.Context(), t, moved(nil))
			if o.err != nil || o.file("out") != fmt.Sprintf("release %d", round) {
				t.Errorf("round %d: %v: %q\n%s", round, o.err, o.file("out"), o.res)
			}
			return o.took
		})
		longest = max(longest, took)
		progress(t, round+1, rounds, "")
		switch rnd.IntN(4) {
		case 0:
			r.Restart(t)
		case 1:
			if err := r.Client(t).Prune(t.Context(), nil, client.PruneAll); err != nil {
				t.Fatal(err)
			}
		}
	}
	measured(t, figure{"churn: names that move, restarts, prunes", rounds, "every build had what was news then", longest})
}
