package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/org/localfront/internal/testengine"
)

// strike builds n turns, lets something happen to each at a random moment, and
// builds it again, which has to work. It returns how many of the builds that
// something happened to succeeded all the same, and what took longest.
func (r *rig) strike(t *testing.T, n int, happen func(rnd *rand.Rand, cancel func()), mend func()) (survived int, longest time.Duration) {
	t.Helper()
	rnd := random(t)
	// The first build fetches the frontend and the base: the second is the
	// measure of those that follow.
	r.mustBuild(t, r.turn(n+1).opt, r.turn(n+1).files)
	span := r.mustBuild(t, r.turn(0).opt, r.turn(0).files).took
	for i := 1; i <= n; i++ {
		u := r.turn(i)
		moment := moments[i%len(moments)]
		more := time.Duration(rnd.Int64N(int64(span)/8 + 1))
		now := make(chan struct{})
		close(now)
		began := (<-chan struct{})(now)
		if moment == "" {
			more = time.Duration(rnd.Int64N(int64(span)))
		} else {
			u.opt.Watch, began = on(moment)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := r.start(ctx, t, u.opt)
		o, over := wait(began, ended, more)
		happen(rnd, cancel)
		if over {
			again := make(chan outcome, 1)
			again <- o
			ended = again
		}
		o = u.end(t, ended)
		cancel()
		if o.err == nil {
			survived++
		}
		mend()
		u.opt.Watch = nil
		o = r.mustBuild(t, u.opt, u.files)
		longest = max(longest, o.took)
		r.mustBuild(t, u.use, u.files)
		if t.Failed() {
			t.Fatalf("turn %d, %s after %q", i, more, moment)
		}
	}
	return survived, longest
}

// TestDaemonKilled kills the daemon at random moments of a build, of writing to
// the ledger and of freezing a context. The next build has to work.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	n := times(3, 200)
	survived, longest := r.strike(t, n, func(*rand.Rand, func()) { r.Kill(t) }, func() { r.Start(t) })
	measured(t, figure{"buildkitd killed (SIGKILL), started again", n,
		fmt.Sprintf("the next build was right each time; %d builds had ended before", survived), longest})
}

// TestCancelled gives up at random moments. Nothing may be left running, and
// the next build has to work.
func TestCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	n := times(3, 200)
	survived, longest := r.strike(t, n, func(_ *rand.Rand, cancel func()) { cancel() }, func() { r.quiet(t) })
	measured(t, figure{"build cancelled (Ctrl-C)", n,
		fmt.Sprintf("no process left, the next build was right each time; %d builds had ended before", survived), longest})
}

// TestFrontendKilled kills the frontend's process at random moments.
func TestFrontendKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	n := times(3, 100)
	killed := 0
	survived, longest := r.strike(t, n, func(*rand.Rand, func()) {
		for _, p := range r.Processes() {
			if p.Runs("frontend") {
				p.Kill()
				killed++
			}
		}
	}, func() { r.quiet(t) })
	measured(t, figure{"frontend killed (SIGKILL)", n,
		fmt.Sprintf("the next build was right each time; %d were killed, %d builds succeeded all the same", killed, survived), longest})
}

// TestDiskFull fills the daemon's disk up to a random rest at random moments.
// The build may fail; once there is room again it has to work.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{RootSize: "192m"})
	filler := filepath.Join(r.Root(), "filler")
	n := times(3, 100)
	survived, longest := r.strike(t, n, func(rnd *rand.Rand, _ func()) {
		fill(t, filler, rnd.Int64N(64<<10))
	}, func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	})
	measured(t, figure{"disk full", n,
		fmt.Sprintf("the next build, with room again, was right each time; %d builds succeeded on the full disk", survived), longest})
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
