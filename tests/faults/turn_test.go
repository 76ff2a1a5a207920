package faults

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/internal/testengine"
)

// turn is a build that no other turn shares anything with but its base: it has
// files of its own, a step that runs, and a name.
type turn struct {
	name  string
	opt   testengine.BuildOpt
	files map[string]string // what comes out
}

// many is how many files a turn's context has, so that to freeze it takes a
// while.
const many = 100

// turn returns the n-th build. Its step looks whether all is there: not every
// program of busybox tells that it could not write.
func (r *rig) turn(n int) turn {
	text := fmt.Sprintf("turn %d\n", n)
	u := turn{
		name: fmt.Sprintf("localhost/turn:%d", n),
		opt: testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM REG/base:1 AS b", "COPY f /f", "COPY many /many",
				"RUN cat /f /etc/release > /out && cat /many/* | sha256sum >> /out && [ $(wc -l < /out) = 3 ]",
				"FROM scratch", "COPY --from=b /out /out"),
			Files: map[string]string{"f": text},
		},
	}
	u.opt.Opts = map[string]string{"build-arg:LOCALFRONT_NAME": u.name}
	hash := sha256.New()
	for i := range many {
		content := strings.Repeat(text, i)
		u.opt.Files[fmt.Sprintf("many/%03d", i)] = content
		hash.Write([]byte(content))
	}
	u.files = map[string]string{"out": fmt.Sprintf("%sone\n%x  -", text, hash.Sum(nil))}
	return u
}

// uses is a build that is made from turns, by their names.
func (r *rig) uses(turns []turn) turn {
	u := turn{files: map[string]string{}}
	lines := []string{"FROM scratch"}
	for i, from := range turns {
		lines = append(lines, fmt.Sprintf("COPY --from=%s /out /out%d", from.name, i))
		u.files[fmt.Sprintf("out%d", i)] = from.files["out"]
	}
	u.opt = testengine.BuildOpt{Dockerfile: r.dockerfile("", lines...)}
	return u
}

// start begins a build that something will happen to, and returns how it ends.
func (r *rig) start(ctx context.Context, t *testing.T, opt testengine.BuildOpt) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() { ended <- r.build(ctx, t, opt) }()
	return ended
}

// check checks a build that something happened to. It may fail, but if it says
// that it succeeded then with the right files.
func (u turn) check(t *testing.T, o outcome) {
	t.Helper()
	if o.took > bound {
		t.Errorf("the build ended after %s: %v", o.took, o.err)
	}
	for name, want := range u.files {
		if got := o.file(name); o.err == nil && got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// moment is a step that faults aim at. The one without a step is any time of
// the build.
type moment struct {
	name string
	step string // what the step's name has in it
}

var moments = []moment{
	{"any time", ""},
	{"a write of the ledger", "[internal] ledger writes "},
	{"a freeze: files are kept", "[internal] keep "},
	{"a freeze: files are taken", "[internal] take "},
	{"a step", "RUN cat"},
}

// span is how long a moment lasts, as seen in a build that nothing happens to.
func (m moment) span(o outcome) time.Duration {
	if m.step == "" {
		return o.took
	}
	for _, v := range o.res.Vertices {
		if strings.Contains(v.Name, m.step) && !v.Cached && v.Started != nil && v.Completed != nil {
			return v.Completed.Sub(*v.Started)
		}
	}
	return 0
}

// sight watches a build for a moment.
type sight struct {
	moment  moment
	mu      sync.Mutex
	running map[digest.Digest]bool
	began   chan struct{} // closed when the moment has begun
}

func newSight(m moment) *sight {
	s := &sight{moment: m, running: map[digest.Digest]bool{}, began: make(chan struct{})}
	if m.step == "" {
		close(s.began)
	}
	return s
}

// watch takes in what a build tells of its progress.
func (s *sight) watch(status *client.SolveStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range status.Vertexes {
		if s.moment.step == "" || !strings.Contains(v.Name, s.moment.step) {
			continue
		}
		if v.Started == nil || v.Completed != nil || v.Cached {
			delete(s.running, v.Digest)
			continue
		}
		s.running[v.Digest] = true
		select {
		case <-s.began:
		default:
			close(s.began)
		}
	}
}

// on says whether it is the moment, of a build that has not ended.
func (s *sight) on() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moment.step == "" || len(s.running) > 0
}

// wait waits for the moment and some time more, or until the build has ended.
func (s *sight) wait(ended <-chan outcome, more time.Duration) (o outcome, over bool) {
	select {
	case o := <-ended:
		return o, true
	case <-s.began:
	}
	select {
	case o := <-ended:
		return o, true
	case <-time.After(more):
		return outcome{}, false
	}
}
