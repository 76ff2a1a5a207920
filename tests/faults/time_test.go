package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/testengine"
)

// redate moves what is remembered of a name in time, as a clock that was set
// would.
func (r *rig) redate(t *testing.T, name string, years int) {
	t.Helper()
	ref := r.images.Ref(name)
	r.inLedger(t, func(ctx context.Context, l *ledger.Ledger) error {
		e, ok, err := l.Read(ctx, ref, "docker-image://"+ref)
		if err != nil || !ok {
			return fmt.Errorf("nothing is remembered of %s: %w", ref, err)
		}
		e.Image.Resolved = time.Now().AddDate(years, 0, 0)
		return l.Write(ctx, ref, e)
	})
}

// TestClock: what is remembered is a year old, or of next year. It is used, the
// build says that its age is wrong, and whoever limits the age asks.
func TestClock(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	files := map[string]string{"out": "one"}
	opt := func(words string, opts map[string]string) testengine.BuildOpt {
		return testengine.BuildOpt{Opts: opts, Dockerfile: r.dockerfile(words, "FROM scratch", "COPY --from=REG/base:1 /etc/release /out")}
	}
	r.mustBuild(t, opt("", nil), files)
	var longest time.Duration
	n := times(1, 10)
	for range n {
		for years, warning := range map[int]string{-1: "was resolved 12 months ago", 1: "was resolved at a time that is still to come"} {
			r.redate(t, "base:1", years)
			o := r.mustBuild(t, opt("", nil), files)
			longest = max(longest, o.took)
			if !strings.Contains(o.res.WarningText(), warning+": build with --pull") {
				t.Errorf("%d years: warnings %q do not say %q", years, o.res.WarningText(), warning)
			}
			if o = r.mustBuild(t, opt("max-age=520w", nil), files); (years > 0) != (o.res.Vertex("from registry") != nil) {
				t.Errorf("%d years, of ten at most:\n%s", years, o.res)
			}
			r.redate(t, "base:1", years)
			r.mustBuild(t, opt("", map[string]string{"image-resolve-mode": "pull"}), files)
			if w := r.mustBuild(t, opt("max-age=1h", nil), files).res.WarningText(); w != "" {
				t.Errorf("%d years, after --pull: %s", years, w)
			}
		}
	}
	measured(t, figure{"memory dated a year back and forth", 2 * n, "right, with a warning of its age; max-age and --pull date it anew", longest})
}
