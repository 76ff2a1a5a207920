package faults

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testregistry"
)

var (
	manifests = []testregistry.Kind{testregistry.Manifest}
	blobs     = []testregistry.Kind{testregistry.Blob}
	tokens    = []testregistry.Kind{testregistry.Token}
)

// registryFaults are the ways in which a registry fails, and what the user sees
// of a name that nobody has built with before. Of one that is remembered and
// whose content is on the builder, nothing is ever seen.
var registryFaults = []struct {
	name   string
	fault  testregistry.Fault
	token  bool                         // the registry wants a token
	down   func(*testregistry.Registry) // in place of a fault
	ends   bool                         // false where it waits until the user gives up
	fresh  []string                     // what the error says
	sticks bool                         // BuildKit may refuse the content for good
	stale  bool                         // a warm daemon notices when it asks for a tag
}{
	{name: "refuses", down: (*testregistry.Registry).Stop, ends: true, fresh: []string{"failed to do request", "connection refused"}, stale: true},
	{name: "black hole", down: func(r *testregistry.Registry) { _ = r.BlackHole() }, stale: true},
	{name: "hangs after accept", fault: testregistry.Fault{Hang: true}, stale: true},
	{name: "401", fault: testregistry.Fault{Status: 401}, ends: true, fresh: []string{"401 Unauthorized"}, stale: true},
	{name: "403", fault: testregistry.Fault{Status: 403}, ends: true, fresh: []string{"403 Forbidden"}, stale: true},
	{name: "404", fault: testregistry.Fault{Status: 404}, ends: true, fresh: []string{"not found"}, stale: true},
	{name: "429", fault: testregistry.Fault{Status: 429, RetryAfter: time.Second}, ends: true, fresh: []string{"429 Too Many Requests"}, stale: true},
	{name: "500", fault: testregistry.Fault{Status: 500}, ends: true, fresh: []string{"500 Internal Server Error"}, stale: true},
	{name: "503", fault: testregistry.Fault{Status: 503}, ends: true, fresh: []string{"503 Service Unavailable"}, stale: true},
	{name: "redirect loop", fault: testregistry.Fault{Redirect: true}, ends: true, fresh: []string{"redirects"}, stale: true},
	{name: "wrong bytes in a manifest", fault: testregistry.Fault{Kinds: manifests, Corrupt: true}, sticks: true, ends: true, fresh: []string{"unexpected commit digest"}},
	{name: "wrong bytes in a layer", fault: testregistry.Fault{Kinds: blobs, Corrupt: true}, sticks: true, ends: true, fresh: []string{"unexpected commit digest"}},
	{name: "manifest breaks off", fault: testregistry.Fault{Kinds: manifests, Truncate: true}, ends: true, fresh: []string{"short read"}},
	{name: "layer breaks off", fault: testregistry.Fault{Kinds: blobs, Truncate: true}, ends: true, fresh: []string{"short read"}},
	{name: "credentials expired", token: true, fault: testregistry.Fault{Kinds: tokens, Status: 401}, ends: true, fresh: []string{"401 Unauthorized"}},
	{name: "token expired", token: true, fault: testregistry.Fault{Kinds: manifests, Status: 401}, ends: true, fresh: []string{"authorization failed"}, stale: true},
}

// TestRegistryFaults: each way a registry can fail ends in time and with what
// went wrong, a name that is remembered does not notice, and once the registry
// is well again so is the build.
func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	regs := make([]*testregistry.Registry, len(registryFaults))
	var hosts []string
	for i := range regs {
		regs[i] = testregistry.New(t)
		hosts = append(hosts, regs[i].Host())
	}
	r := newRig(t, testengine.Config{Insecure: hosts})
	for i, f := range registryFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			one := &rig{Buildkitd: r.Buildkitd, images: regs[i], frontend: r.frontend, official: r.official}
			// Content is the daemon's, whatever registry it came from: so every
			// fault has images of its own.
			one.push(t, "known:1", f.name+" known")
			one.push(t, "fresh:1", f.name+" fresh")
			regs[i].RequireToken(f.token)
			opt := func(name, words string) testengine.BuildOpt {
				return testengine.BuildOpt{Dockerfile: one.dockerfile(words, "FROM REG/"+name+":1 AS b", "RUN cat /etc/release > /out", "FROM scratch", "COPY --from=b /out /")}
			}
			known := map[string]string{"out": f.name + " known"}
			one.mustBuild(t, opt("known", ""), known)
			var longest time.Duration
			rounds := times(1, 4)
			for range rounds {
				if f.down != nil {
					f.down(regs[i])
				} else {
					regs[i].SetFaults(testregistry.All, f.fault)
				}
				one.mustBuild(t, opt("known", ""), known)
				if *soak {
					one.mustBuild(t, opt("known", "offline"), known)
				}
				longest = max(longest, one.fails(t, opt("fresh", ""), f.ends, f.fresh))
				one.stale(t, opt("known", "max-age=1ns"), known, f.stale)
				regs[i].ClearFaults()
				if err := regs[i].Start(); err != nil {
					t.Fatal(err)
				}
			}
			one.heals(t, opt("fresh", ""), map[string]string{"out": f.name + " fresh"}, f.sticks)
			what := "unknown name: an error; remembered: builds"
			if !f.ends {
				what = "unknown name: waits as BuildKit does, ends when the user gives up; remembered: builds"
			}
			measured(t, figure{"registry: " + f.name, times(3, 4) * rounds, what, longest})
		})
	}
}

// heals builds once the registry is well again. Where it has given wrong bytes,
// BuildKit keeps what it fetched and may go on refusing that content (the
// content store takes up an unfinished file where it ended): then it does so
// with the official frontend as well.
func (r *rig) heals(t *testing.T, opt testengine.BuildOpt, files map[string]string, sticks bool) {
	t.Helper()
	if !sticks {
		r.mustBuild(t, opt, files)
		return
	}
	official := opt
	official.Dockerfile = strings.Replace(opt.Dockerfile, r.frontend, r.official, 1)
	a, b := r.build(t.Context(), t, official), r.build(t.Context(), t, opt)
	if a.err == nil && b.err != nil {
		t.Errorf("the official frontend builds, localfront does not: %v", b.err)
	}
	if b.err != nil {
		wantError(t, b.err, "unexpected commit digest")
	}
}

// fails builds what cannot be built, and returns how long it took. A build that
// would wait for ever ends soon after its user has given up.
func (r *rig) fails(t *testing.T, opt testengine.BuildOpt, ends bool, want []string) time.Duration {
	t.Helper()
	ctx := t.Context()
	if !ends {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	o := r.build(ctx, t, opt)
	switch {
	case o.err == nil:
		t.Errorf("built what the registry cannot have given:\n%s", o.res)
	case ends:
		wantError(t, o.err, want...)
	case !errors.Is(ctx.Err(), context.DeadlineExceeded):
		t.Errorf("ended by itself: %v", o.err)
	}
	if o.took > bound {
		t.Errorf("took %s", o.took)
	}
	t.Logf("unknown name: %s: %v", o.took.Round(time.Millisecond), o.err)
	return o.took
}

// stale builds with memory that is too old for its user: it stands in, and the
// build says so, where the registry cannot answer for the tag.
func (r *rig) stale(t *testing.T, opt testengine.BuildOpt, files map[string]string, warns bool) {
	t.Helper()
	o := r.mustBuild(t, opt, files)
	said := strings.Contains(o.res.WarningText(), "the registry could not answer, so the digest resolved ")
	if warns && !said {
		t.Errorf("no warning that memory stands in:\n%s", o.res)
	}
}

// TestNoDNS: a name whose registry cannot be found. The resolver answers for
// .onion itself (RFC 7686), without a network.
func TestNoDNS(t *testing.T) {
	t.Parallel()
	const host = "registry.onion"
	mirror := testregistry.New(t)
	r := newRig(t, testengine.Config{
		Mirrors: map[string][]string{host: {mirror.Host()}}, Insecure: []string{mirror.Host()},
		Env: []string{"NO_PROXY=127.0.0.1,localhost,.onion", "no_proxy=127.0.0.1,localhost,.onion"},
	})
	r.images = mirror
	r.push(t, "known:1", "known")
	opt := func(name string) testengine.BuildOpt {
		return testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM "+name+" AS b", "FROM scratch", "COPY --from=b /etc/release /out")}
	}
	known := map[string]string{"out": "known"}
	r.mustBuild(t, opt(host+"/known:1"), known)
	mirror.Stop()
	r.mustBuild(t, opt(host+"/known:1"), known)
	longest := r.fails(t, opt("another.onion/fresh:1"), true, []string{"dial tcp", "another.onion"})
	measured(t, figure{"registry: DNS fails", 2, "unknown name: an error; remembered: builds", longest})
}
