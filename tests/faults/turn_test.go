package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/org/localfront/internal/testengine"
)

// turn is a build that no other turn shares anything with but its base: it has
// a file of its own, a step that runs, and a name.
type turn struct {
	opt   testengine.BuildOpt
	use   testengine.BuildOpt // a build that is made from it, by its name
	files map[string]string   // what comes out of both
}

// turn returns the n-th build.
func (r *rig) turn(n int) turn {
	text := fmt.Sprintf("turn %d", n)
	return turn{
		opt: testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM REG/base:1 AS b", "COPY f /f", "RUN cat /f /etc/release > /out", "FROM scratch", "COPY --from=b /out /out"),
			Files:      map[string]string{"f": text + "\n"},
			Opts:       map[string]string{"build-arg:LOCALFRONT_NAME": fmt.Sprintf("localhost/turn:%d", n)},
		},
		use: testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM scratch", fmt.Sprintf("COPY --from=localhost/turn:%d /out /out", n)),
		},
		files: map[string]string{"out": text + "\none"},
	}
}

// start begins a build that something will happen to, and returns how it ends.
func (r *rig) start(ctx context.Context, t *testing.T, opt testengine.BuildOpt) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() { ended <- r.build(ctx, t, opt) }()
	return ended
}

// end waits for a build that was started. It may fail, but if it says that it
// succeeded then with the right files.
func (u turn) end(t *testing.T, ended <-chan outcome) outcome {
	t.Helper()
	o := <-ended
	if o.took > bound {
		t.Errorf("the build ended after %s: %v", o.took, o.err)
	}
	for name, want := range u.files {
		if got := o.file(name); o.err == nil && got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	return o
}

// on returns a function to watch a build with, and what is closed when a step
// begins whose name has text in it.
func on(text string) (watch func(*client.SolveStatus), began <-chan struct{}) {
	ch := make(chan struct{})
	var once sync.Once
	return func(s *client.SolveStatus) {
		for _, v := range s.Vertexes {
			if v.Started != nil && !v.Cached && strings.Contains(v.Name, text) {
				once.Do(func() { close(ch) })
			}
		}
	}, ch
}

// moments are the steps that faults aim at, by what their names say. The empty
// one is any moment of the build.
var moments = []string{"", "[internal] ledger ", "[internal] freeze ", "RUN cat"}

// wait waits for a moment of a build: until its step begins and some time of
// up to span more, or until the build has ended.
func wait(began <-chan struct{}, ended <-chan outcome, more time.Duration) (o outcome, over bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case o := <-ended:
			return o, true
		case <-began:
			began = nil
			timer.Reset(more)
		case <-timer.C:
			return outcome{}, false
		}
	}
}
