package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/org/localfront/internal/testengine"
)

// blow is what happens to builds, and how what it breaks is mended.
type blow struct {
	strike func(rnd *rand.Rand, cancel func())
	mend   func()
	breaks string // what BuildKit says once the blow has broken its own records
	heal   func() // what helps then, before the build is sent again
}

// lostSnapshot is what BuildKit says of a step whose snapshot it has lost: its
// metadata could not be written on a full disk, after the snapshot was renamed
// ("uncommittable snapshot: transaction failed after commit"). Until it starts
// again each build that needs the step fails, whatever the frontend.
const lostSnapshot = "failed to stat active key during commit: snapshot does not exist"

// orphanSnapshot is what BuildKit says when it was killed between giving a
// snapshot its directory and writing that down: the next snapshot of that number
// finds the directory taken. That build fails, whatever the frontend, and what
// is left over is collected after it.
const orphanSnapshot = "failed to rename: rename "

// tally is what came of blows.
type tally struct {
	turns   int
	struck  map[moment]int // in it, and not before or after
	ended   int            // builds that succeeded all the same
	broken  int            // times that BuildKit's own records were
	longest time.Duration  // of the builds after
}

func (c *tally) String() string {
	var at []string
	for _, m := range moments {
		at = append(at, fmt.Sprintf("%d in %s", c.struck[m], m.name))
	}
	return strings.Join(at, ", ")
}

// next returns the moment of the next turn, and false after n turns. In a soak
// every moment has to be struck: one that nobody has hit gets more tries, which
// are made as soon as it begins.
func (c *tally) next(n int) (m moment, late, ok bool) {
	c.turns++
	if c.turns <= n {
		return moments[c.turns%len(moments)], true, true
	}
	for _, m := range moments {
		if *soak && c.struck[m] == 0 && c.turns <= n+10*len(moments) {
			return m, false, true
		}
	}
	c.turns--
	return moment{}, false, false
}

// strike builds n turns, lets something happen to each at a random moment, and
// builds it again, which has to work. What was built can be used by its name
// then, whatever happens to the builds after it.
func (r *rig) strike(t *testing.T, n int, b blow) *tally {
	t.Helper()
	rnd := random(t)
	r.byImage = true
	// The first build fetches the frontend and the base: the second is the
	// measure of those that follow.
	first, second := r.turn(0), r.turn(1)
	r.mustBuild(t, first.opt, first.files)
	measure := r.mustBuild(t, second.opt, second.files)
	c := &tally{struck: map[moment]int{}}
	built := []turn{first, second}
	for m, late, ok := c.next(n); ok; m, late, ok = c.next(n) {
		u := r.turn(c.turns + 1)
		var more time.Duration
		if late {
			more = time.Duration(rnd.Int64N(int64(m.span(measure)) + 1))
		}
		r.turnStruck(t, c, u, m, more, func(cancel func()) { b.strike(rnd, cancel) })
		b.mend()
		o := r.build(t.Context(), t, u.opt)
		if b.heal != nil && o.err != nil && strings.Contains(o.err.Error(), b.breaks) {
			c.broken++
			b.heal()
			o = r.build(t.Context(), t, u.opt)
		}
		o.must(t, u.files)
		c.longest = max(c.longest, o.took)
		if built = append(built, u); len(built) >= 20 {
			r.mustUse(t, built)
			built = nil
		}
		progress(t, c.turns, n, "%s", c)
		if t.Failed() {
			t.Fatalf("turn %d, %s after the beginning of %s", c.turns, more, m.name)
		}
	}
	r.mustUse(t, built)
	for _, m := range moments {
		if *soak && c.struck[m] == 0 {
			t.Errorf("in %d turns nothing was struck in %s", c.turns, m.name)
		}
	}
	return c
}

// turnStruck builds a turn that something happens to.
func (r *rig) turnStruck(t *testing.T, c *tally, u turn, m moment, more time.Duration, strike func(cancel func())) {
	t.Helper()
	s := newSight(m)
	u.opt.Watch = s.watch
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := r.start(ctx, t, u.opt)
	o, over := s.wait(ended, more)
	strike(cancel)
	if !over {
		if s.on() {
			c.struck[m]++
		}
		o = <-ended
	}
	u.check(t, o)
	if o.err == nil {
		c.ended++
	}
}

// mustUse builds from turns by their names.
func (r *rig) mustUse(t *testing.T, turns []turn) {
	t.Helper()
	if len(turns) > 0 {
		u := r.uses(turns)
		r.mustBuild(t, u.opt, u.files)
	}
}

// TestDaemonKilled kills the daemon at random moments of a build, of writing to
// the ledger and of freezing a context. The next build has to work.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	c := r.strike(t, times(len(moments), 200), blow{
		strike: func(*rand.Rand, func()) { r.Kill(t) },
		mend:   func() { r.Start(t) },
		breaks: orphanSnapshot,
		heal:   func() {},
	})
	measured(t, figure{"buildkitd killed (SIGKILL), started again", c.turns,
		fmt.Sprintf("the next build was right each time; killed %s; %d builds had ended before; %d times BuildKit had a snapshot left over, and the build was sent again", c, c.ended, c.broken), c.longest})
}

// TestCancelled gives up at random moments. Nothing may be left running, and
// the next build has to work.
func TestCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	c := r.strike(t, times(3, 80), blow{
		strike: func(_ *rand.Rand, cancel func()) { cancel() },
		mend:   func() { r.quiet(t) },
	})
	measured(t, figure{"build cancelled (Ctrl-C)", c.turns,
		fmt.Sprintf("no process left, the next build was right each time; given up %s; %d builds had ended before", c, c.ended), c.longest})
}

// TestFrontendKilled kills the frontend's process at random moments.
func TestFrontendKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	killed := 0
	c := r.strike(t, times(3, 60), blow{
		strike: func(*rand.Rand, func()) {
			for _, p := range r.Processes() {
				if p.Runs("frontend") {
					p.Kill()
					killed++
				}
			}
		},
		mend: func() { r.quiet(t) },
	})
	measured(t, figure{"frontend killed (SIGKILL)", c.turns,
		fmt.Sprintf("the next build was right each time; struck %s; %d were killed, %d builds succeeded all the same", c, killed, c.ended), c.longest})
}

// TestDiskFull fills the daemon's disk up to a random rest at random moments.
// The build may fail; once there is room again it has to work.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{RootSize: "256m"})
	filler := filepath.Join(r.Root(), "filler")
	c := r.strike(t, times(3, 60), blow{
		strike: func(rnd *rand.Rand, _ func()) { fill(t, filler, rnd.Int64N(64<<10)) },
		mend: func() {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		},
		breaks: lostSnapshot,
		heal:   func() { r.Restart(t) },
	})
	measured(t, figure{"disk full", c.turns,
		fmt.Sprintf("the next build, with room again, was right each time; full %s; %d builds succeeded on the full disk; %d times BuildKit had lost a snapshot and had to be started again", c, c.ended, c.broken), c.longest})
}

// fill makes a file that leaves so many bytes of its file system.
func fill(t *testing.T, path string, left int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if size := int64(fs.Bavail)*fs.Bsize - left; size > 0 {
		// The daemon may be quicker: then less is left, and that is fine too.
		_ = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
}
