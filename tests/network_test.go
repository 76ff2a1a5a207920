package tests

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testregistry"
)

// TestBlackHole: offline, a network that swallows packets costs no time, not
// even on a daemon that has forgotten its connections. The image is in a
// registry of its own, since the frontend's is BuildKit's to ask.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	images := testregistry.New(t)
	if _, err := images.Push("base/hole:1", busybox(t, "hole")); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, testengine.Config{Insecure: []string{images.Host()}})
	from := "FROM " + images.Ref("base/hole:1")
	r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", from, "RUN echo hole")})
	opt := testengine.BuildOpt{Dockerfile: r.dockerfile("offline", from, "RUN echo hole")}
	timed := func() time.Duration {
		start := time.Now()
		r.build(t, opt)
		return time.Since(start)
	}
	timed()
	// Whatever waits for a connection waits in each build, and for a second at
	// least: that is when TCP sends its first packet again. What other work on
	// the machine costs is left out by taking the fastest builds.
	var ups, downs []time.Duration
	for range 4 {
		ups = append(ups, timed())
		if err := images.BlackHole(); err != nil {
			t.Fatal(err)
		}
		downs = append(downs, timed())
		if err := images.Start(); err != nil {
			t.Fatal(err)
		}
	}
	up, down := slices.Min(ups), slices.Min(downs)
	t.Logf("offline, the fastest of %d builds: %s with a black hole, %s with the registry", len(ups), down, up)
	if down > up+900*time.Millisecond {
		t.Errorf("with a black hole the builds take %s, with the registry %s", downs, ups)
	}

	r.Restart(t)
	if err := images.BlackHole(); err != nil {
		t.Fatal(err)
	}
	// BuildKit gives a connection up after 30 seconds.
	if took := timed(); took > 20*time.Second {
		t.Errorf("on a restarted daemon the build takes %s", took)
	}
}

// TestOffline: what is not here is an error that says so, never a request.
func TestOffline(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.push(t, "lint:1", busybox(t, "lint"))
	r.build(t, testengine.BuildOpt{
		Dockerfile: r.dockerfile("", "FROM REG/lint:1", "RUN true"), Opts: map[string]string{"requestid": "frontend.lint"},
	})
	known := r.push(t, "known:1", busybox(t, "known"))
	r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/known:1", "RUN true")})
	r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/known:1", "LABEL a=b"), Exports: []client.ExportEntry{testengine.ExportOCI(t).Entry}})
	r.cold(t)
	for name, c := range map[string]struct {
		opt  testengine.BuildOpt
		want []string // nil where the build works
	}{
		"known":      {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/known:1", "RUN true")}},
		"build arg":  {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/known:1", "RUN true"), Opts: map[string]string{"build-arg:LOCALFRONT_OFFLINE": "1"}}},
		"no step":    {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/known:1", "LABEL c=d"), Exports: []client.ExportEntry{testengine.ExportOCI(t).Entry}}},
		"provenance": {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/known:1", "RUN true"), Opts: map[string]string{"attest:provenance": "mode=max"}}},
		"registry cache": {opt: testengine.BuildOpt{
			Dockerfile:   r.dockerfile("offline", "FROM REG/known:1", "RUN true"),
			CacheImports: []client.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": r.reg.Ref("cache:1")}}},
		}},
		"by digest": {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/known@"+known, "RUN true")}},
		"pull":      {opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/known:1", "RUN true"), Opts: map[string]string{"image-resolve-mode": "pull"}}},
		"unknown": {
			opt:  testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/unknown:1")},
			want: []string{"unknown:1 is not known on this builder and offline is set: build once without offline"},
		},
		"metadata only": {
			opt: testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM REG/lint:1", "RUN true")},
			// Whether the daemon has kept the metadata is its own affair.
			want: []string{"lint:1", "is not on this builder", "and offline is set: build once without offline"},
		},
		"another platform": {
			opt:  testengine.BuildOpt{Dockerfile: r.dockerfile("offline", "FROM --platform=linux/arm64 REG/missing:1")},
			want: []string{"missing:1 is not known on this builder"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.reg.Reset()
			res, err := r.tryBuild(t, c.opt)
			switch {
			case c.want != nil:
				wantError(t, err, c.want...)
			case err != nil:
				t.Errorf("%v\n%s", err, res)
			}
			r.wantNoRequests(t)
		})
	}
}

// TestMaxAge: memory that is too old asks first, and is used if nobody answers.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	build := func(words string) *testengine.Result {
		return r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile(words, "FROM REG/alpine:3.20", "RUN echo age")})
	}
	build("")
	time.Sleep(10 * time.Millisecond)
	r.reg.Reset()
	build("max-age=1h")
	r.wantNoRequests(t)
	line(t, build("max-age=1ms"), "alpine:3.20 from registry")
	if len(r.requests()) == 0 {
		t.Error("memory older than max-age did not ask the registry")
	}
	r.reg.SetFaults("alpine", testregistry.Fault{Status: 500})
	res := build("max-age=1ms")
	if w := res.WarningText(); !strings.Contains(w, "alpine:3.20: the registry could not answer, so the digest resolved ") {
		t.Errorf("no warning that memory stands in:\n%s", res)
	}
}

// TestProvenance: material keeps its name, at the price of what BuildKit asks
// on a cold pool.
func TestProvenance(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.byImage = true // which is a material as well
	for _, c := range []struct {
		words, purl string
		requests    int
	}{
		{"", "pkg:docker/", 1},
		{"offline", "pkg:oci/", 0},
	} {
		export := testengine.ExportOCI(t)
		opt := testengine.BuildOpt{
			Dockerfile: r.dockerfile(c.words, "FROM REG/alpine:3.20", "RUN echo provenance"),
			Opts:       map[string]string{"attest:provenance": "mode=max"},
			Exports:    []client.ExportEntry{export.Entry},
		}
		r.build(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo provenance")})
		r.cold(t)
		r.build(t, opt)
		if reqs := r.requests(); len(reqs) != c.requests {
			t.Errorf("%q: %d requests, want %d:\n%s", c.words, len(reqs), c.requests, strings.Join(reqs, "\n"))
		}
		var found bool
		for _, m := range materials(t, export) {
			found = found || strings.HasPrefix(m, c.purl) && strings.Contains(m, "alpine")
		}
		if !found {
			t.Errorf("%q: no material %s…alpine in %q", c.words, c.purl, materials(t, export))
		}
	}
}

// TestSourcePolicy: what is remembered never gets round a policy.
func TestSourcePolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	other := r.push(t, "other:1", busybox(t, "other"))
	opt := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN grep -q 3.20 /etc/release")}
	r.build(t, opt)
	rule := func(action spb.PolicyAction, id, update string) *spb.Policy {
		rule := &spb.Rule{Action: action, Selector: &spb.Selector{Identifier: id}}
		if update != "" {
			rule.Updates = &spb.Update{Identifier: update}
		}
		return &spb.Policy{Version: 1, Rules: []*spb.Rule{rule}}
	}
	tag := "docker-image://" + r.reg.Ref("alpine:3.20")
	digest, err := r.reg.Digest("alpine:3.20")
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string]*spb.Policy{
		"tag":      rule(spb.PolicyAction_DENY, tag, ""),
		"digest":   rule(spb.PolicyAction_DENY, tag+"@"+digest, ""),
		"wildcard": rule(spb.PolicyAction_DENY, "docker-image://"+r.reg.Ref("alpine*"), ""),
	} {
		t.Run("deny "+name, func(t *testing.T) {
			denied := opt
			denied.SourcePolicy = policy
			_, err := r.tryBuild(t, denied)
			wantError(t, err, "denied by policy")
		})
	}
	t.Run("convert", func(t *testing.T) {
		converted := opt
		converted.Dockerfile = r.dockerfile("", "FROM REG/alpine:3.20", "RUN grep -q other /etc/release")
		converted.SourcePolicy = rule(spb.PolicyAction_CONVERT, tag, "docker-image://"+r.reg.Ref("other:1")+"@"+other)
		r.build(t, converted)
		r.build(t, converted)
	})
	r.cold(t)
	r.build(t, opt)
	r.wantNoRequests(t)
}

// TestToken: a registry that wants a token first is asked for one once.
func TestToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	r.reg.RequireToken(true)
	opt := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM REG/alpine:3.20", "RUN echo token")}
	r.build(t, opt)
	if r.reg.Count(testregistry.OfKind(testregistry.Token)) == 0 {
		t.Errorf("no token was asked for:\n%s", r.reg.Log())
	}
	r.cold(t)
	r.build(t, opt)
	r.wantNoRequests(t)
}
