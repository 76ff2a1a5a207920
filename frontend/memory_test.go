package frontend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/fakegateway"
)

const day = 24 * time.Hour

// digestOfAlpine is that of fakegateway.Image{}.
const digestOfAlpine = "sha256:7d5932a2c2c0effc19a07bf8779519fec18527a447080e7bc7ffd72a3ae5ccd2"

var simple = dockerfile("FROM alpine:3.20\nRUN true\n")

// seasoned returns a builder that has built simple, and the digest of alpine.
func seasoned(t *testing.T) (*fakegateway.Builder, digest.Digest) {
	t.Helper()
	b := fakegateway.NewBuilder()
	d := b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, simple)
	b.Restart()
	return b, d
}

// from returns what a build takes alpine from.
func from(res *fakegateway.Result) string {
	for _, src := range sources(res.Refs[""]) {
		if !strings.HasSuffix(src, " apart") {
			return src
		}
	}
	return ""
}

func TestMovedTag(t *testing.T) {
	t.Parallel()
	b, was := seasoned(t)
	now := b.Registry.Push(alpine, fakegateway.Image{Content: "new"})

	equal(t, "a plain build", from(build(t, b, simple)), "oci-layout://"+alpine+"@"+was.String())
	equal(t, "requests of a plain build", b.Requests(), nil)

	pull := with(simple, "image-resolve-mode", "pull")
	equal(t, "--pull", from(build(t, b, pull)), "docker-image://"+alpine+"@"+now.String())
	equal(t, "requests of --pull", b.Requests(), append(alpineMetadata[:4:4], alpineLayer))

	equal(t, "the next plain build", from(build(t, b, simple)), "oci-layout://"+alpine+"@"+now.String())
	equal(t, "requests of the next plain build", b.Requests(), nil)
}

func TestPullThatFindsNothingNewWritesNothing(t *testing.T) {
	t.Parallel()
	b, _ := seasoned(t)
	build(t, b, with(simple, "image-resolve-mode", "pull"))
	equal(t, "requests", b.Requests(), alpineMetadata[:1])
	equal(t, "containers", b.Containers(), nil)
}

func TestPullKeepsTheAgeTrue(t *testing.T) {
	t.Parallel()
	b, _ := seasoned(t)
	age(t, b, alpine, 3*day)
	build(t, b, with(simple, "image-resolve-mode", "pull"))
	if old := time.Since(recall(t, b, alpine).Resolved); old > time.Minute {
		t.Errorf("after --pull the memory is %s old", old)
	}
}

func TestOffline(t *testing.T) {
	t.Parallel()
	offline := dockerfile("FROM alpine:3.20\nRUN true\n", "offline")
	tests := []struct {
		name  string
		what  fakegateway.Build
		wreck func(t *testing.T, b *fakegateway.Builder)
		err   string
		where string
	}{
		{
			name: "everything here", what: offline,
		},
		{
			name: "as a build arg", what: with(simple, "build-arg:LOCALFRONT_OFFLINE", "1"),
		},
		{
			name:  "name unknown",
			what:  dockerfile("# a comment\nFROM busybox\n", "offline"),
			err:   "busybox: busybox:latest is not known on this builder and offline is set: build once without offline, or build where the name has been resolved before",
			where: "Dockerfile:2",
		},
		{
			name:  "content gone",
			what:  offline,
			wreck: func(_ *testing.T, b *fakegateway.Builder) { b.PruneContent() },
			err:   "alpine:3.20: alpine:3.20 is remembered as " + digestOfAlpine + " (less than a second old), but its content for linux/amd64 is not on this builder and offline is set: build once without offline",
			where: "Dockerfile:1",
		},
		{
			name:  "layers gone",
			what:  offline,
			wreck: func(_ *testing.T, b *fakegateway.Builder) { b.PruneLayers() },
			err:   "alpine:3.20@" + digestOfAlpine + " is not on this builder for linux/amd64 and offline is set: build once without offline",
			where: "Dockerfile:1",
		},
		{
			name:  "another platform",
			what:  with(offline, "platform", "linux/arm64"),
			err:   "alpine:3.20: alpine:3.20 is remembered as " + digestOfAlpine + " (less than a second old), but its content for linux/arm64 is not on this builder and offline is set: build once without offline",
			where: "Dockerfile:1",
		},
		{
			name:  "a digest that is not here",
			what:  dockerfile("FROM alpine@"+digest.FromString("x").String()+"\n", "offline"),
			err:   "alpine@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881: alpine@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 is not on this builder for linux/amd64 and offline is set: build once without offline",
			where: "Dockerfile:1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := seasoned(t)
			if tt.wreck != nil {
				tt.wreck(t, b)
			}
			_, err := run(t, b, tt.what)
			equal(t, "requests", b.Requests(), nil)
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			fails(t, err, tt.err, tt.where)
		})
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		wreck func(b *fakegateway.Builder, d digest.Digest)
		err   string
	}{
		{
			name: "deleted, and the tag moved on",
			wreck: func(b *fakegateway.Builder, d digest.Digest) {
				b.Registry.Push(alpine, fakegateway.Image{Content: "new"})
				b.Registry.Delete("alpine@" + d.String())
			},
			err: "alpine:3.20: alpine:3.20 was resolved to " + digestOfAlpine + " less than a second ago, which is gone from this builder and from the registry: build with --pull to resolve the name again: docker.io/library/alpine:3.20@" + digestOfAlpine + ": not found",
		},
		{
			name: "deleted with its tag",
			wreck: func(b *fakegateway.Builder, d digest.Digest) {
				b.Registry.Delete(alpine)
				b.Registry.Delete("alpine@" + d.String())
			},
			err: "alpine:3.20: alpine:3.20 was resolved to " + digestOfAlpine + " less than a second ago, its content is gone from this builder and the registry could not give it: try again when it can, or build with --pull: docker.io/library/alpine:3.20@" + digestOfAlpine + ": not found",
		},
		{
			name:  "the registry is down",
			wreck: func(b *fakegateway.Builder, _ digest.Digest) { b.Registry.Down("docker.io", errUnreachable) },
			err:   "alpine:3.20: alpine:3.20 was resolved to " + digestOfAlpine + " less than a second ago, its content is gone from this builder and the registry could not give it: try again when it can, or build with --pull: failed to do request: Head \"docker.io/library/alpine:3.20@" + digestOfAlpine + "\": dial tcp: network is unreachable",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, d := seasoned(t)
			b.PruneContent()
			tt.wreck(b, d)
			_, err := run(t, b, simple)
			fails(t, err, tt.err, "Dockerfile:1")
		})
	}
}

func TestContentGoneComesBackByDigest(t *testing.T) {
	t.Parallel()
	b, d := seasoned(t)
	b.Registry.Push(alpine, fakegateway.Image{Content: "new"})
	b.PruneContent()
	res := build(t, b, simple)
	equal(t, "source", from(res), "docker-image://"+alpine+"@"+d.String())
	res = build(t, b, simple)
	equal(t, "source of the next build", from(res), "oci-layout://"+alpine+"@"+d.String())
	equal(t, "requests of the next build", b.Requests(), nil)
}

func TestLayersGoneComeBack(t *testing.T) {
	t.Parallel()
	b, d := seasoned(t)
	b.PruneLayers()
	res := build(t, b, simple)
	equal(t, "source", from(res), "docker-image://"+alpine+"@"+d.String())
	equal(t, "requests", b.Requests(), []string{"HEAD " + alpine + "@" + d.String(), alpineLayer})
	build(t, b, simple)
	equal(t, "requests of the next build", b.Requests(), nil)
}

func TestPlatformMissingInTheRememberedIndex(t *testing.T) {
	t.Parallel()
	b, _ := seasoned(t)
	now := b.Registry.Push(alpine, fakegateway.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Content: "new"})
	arm := with(simple, "platform", "linux/arm64")
	equal(t, "for the platform", from(build(t, b, arm)), "docker-image://"+alpine+"@"+now.String()+" arm64")
	equal(t, "requests", b.Requests(), []string{
		"HEAD " + alpine + "@" + digestOfAlpine, // has it got the platform?
		"HEAD " + alpine,
		"GET docker.io/library/alpine index",
		"GET docker.io/library/alpine manifest linux/arm64",
		"GET docker.io/library/alpine config linux/arm64",
		"GET docker.io/library/alpine layer linux/arm64",
	})
	equal(t, "what is remembered", recall(t, b, alpine).Digest, now)
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		age      time.Duration
		down     bool
		words    []string
		requests []string
		warnings []string
	}{
		{name: "fresh", age: 6 * day, words: []string{"max-age=7d"}},
		{name: "stale", age: 8 * day, words: []string{"max-age=7d"}, requests: alpineMetadata[:1]},
		{
			name: "stale and the registry is down", age: 8 * day, words: []string{"max-age=7d"}, down: true,
			requests: alpineMetadata[:1],
			warnings: []string{`alpine:3.20: the registry could not answer, so the digest resolved 8 days ago is used although max-age is 7 days: failed to do request: Head "docker.io/library/alpine:3.20": dial tcp: network is unreachable`},
		},
		{name: "no limit", age: 29 * day},
		{name: "30 days", age: 30 * day, warnings: []string{"alpine:3.20 was resolved 4 weeks ago: build with --pull to ask the registry again"}},
		{name: "a year", age: 365 * day, warnings: []string{"alpine:3.20 was resolved 12 months ago: build with --pull to ask the registry again"}},
		{name: "offline wins", age: 8 * day, words: []string{"max-age=7d", "offline"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := seasoned(t)
			age(t, b, alpine, tt.age)
			if tt.down {
				b.Registry.Down("docker.io", errUnreachable)
			}
			build(t, b, dockerfile("FROM alpine:3.20\nRUN true\n", tt.words...))
			equal(t, "requests", b.Requests(), tt.requests)
			equal(t, "warnings", b.Warnings(), tt.warnings)
			refreshed := time.Since(recall(t, b, alpine).Resolved) < day
			equal(t, "refreshed", refreshed, len(tt.requests) > 0 && !tt.down)
		})
	}
}

func TestProvenanceKeepsTheImageWithItsRegistry(t *testing.T) {
	t.Parallel()
	b, d := seasoned(t)
	res := build(t, b, with(simple, "attest:provenance", "mode=max"))
	equal(t, "sources", sources(res.Refs[""]), []string{"docker-image://" + alpine + "@" + d.String()})
	res = build(t, b, with(simple, "attest:provenance", "mode=max", "build-arg:LOCALFRONT_OFFLINE", "1"))
	equal(t, "source offline", from(res), "oci-layout://"+alpine+"@"+d.String())
	equal(t, "requests offline", b.Requests(), nil)
}

func policy(rules ...*spb.Rule) *spb.Policy { return &spb.Policy{Rules: rules} }

func TestPolicyDenies(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"docker-image://docker.io/library/alpine:*", "docker-image://" + alpine + "@*"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			b, _ := seasoned(t)
			b.Policy = policy(&spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: id, MatchType: spb.MatchType_WILDCARD}})
			_, err := run(t, b, simple)
			if err == nil || !strings.Contains(err.Error(), "denied by policy") {
				t.Fatalf("the build was not denied: %v", err)
			}
			equal(t, "requests", b.Requests(), nil)
		})
	}
}

func TestPolicyConverts(t *testing.T) {
	t.Parallel()
	b, _ := seasoned(t)
	other := b.Registry.Push("mirror.test/alpine:3.20", fakegateway.Image{Content: "mirrored"})
	b.Policy = policy(&spb.Rule{
		Action:   spb.PolicyAction_CONVERT,
		Selector: &spb.Selector{Identifier: "docker-image://" + alpine},
		Updates:  &spb.Update{Identifier: "docker-image://mirror.test/alpine:3.20"},
	})
	res := build(t, b, simple)
	equal(t, "sources", sources(res.Refs[""]), []string{"docker-image://mirror.test/alpine:3.20@" + other.String()})
	b.Policy = nil
	equal(t, "without the policy", strings.Contains(from(build(t, b, simple)), "mirror.test"), false)
	equal(t, "requests without the policy", b.Requests(), nil)
}

func TestGarbageInTheLedger(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value, warning string }{
		{"garbage", "garbage", "what is remembered of " + alpine + " cannot be read, so it counts as unknown: ledger value: invalid character 'g' looking for beginning of value"},
		{"another version", `{"version":2}`, "what is remembered of " + alpine + " cannot be read, so it counts as unknown: ledger value: version 2, want 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, _ := seasoned(t)
			scribble(t, b, tt.value)
			build(t, b, simple)
			equal(t, "warnings", b.Warnings(), []string{tt.warning})
			build(t, b, simple)
			equal(t, "warnings of the next build", b.Warnings(), nil)
			equal(t, "requests of the next build", b.Requests(), nil)
		})
	}
}

// scribble replaces the ledger's value for alpine by rewriting the definition
// of a write.
func scribble(t *testing.T, b *fakegateway.Builder, value string) {
	t.Helper()
	b.ClearLog()
	remember(t, b, alpine, ledger.Image{Digest: digest.FromString("x")})
	was := b.Calls(fakegateway.Solve)[0].Definition
	s := b.Session(fakegateway.Build{Opts: map[string]string{}})
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	renamed := map[string]string{}
	for _, dt := range was.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		old := digest.FromBytes(dt).String()
		if m := op.GetExec().GetMeta(); m != nil {
			m.ProxyEnv = &pb.ProxyEnv{HttpProxy: value}
		}
		for _, in := range op.Inputs {
			in.Digest = renamed[in.Digest]
		}
		dt, err := op.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		renamed[old] = digest.FromBytes(dt).String()
		def.Def = append(def.Def, dt)
		def.Metadata[renamed[old]] = was.Metadata[old]
	}
	if _, err := c.Solve(t.Context(), client.SolveRequest{Definition: def, Evaluate: true}); err != nil {
		t.Fatal(err)
	}
}

func TestMissingCapabilities(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		without  []apicaps.CapID
		second   []string // requests of the second build
		warnings []string
	}{
		{name: "none missing"},
		{name: "oci-layout", without: []apicaps.CapID{pb.CapSourceOCILayout}, second: []string{"HEAD " + alpine + "@" + digestOfAlpine}},
		{
			name: "proxyenv", without: []apicaps.CapID{pb.CapExecMetaProxy}, second: alpineMetadata[:1],
			warnings: []string{"names are not remembered: this builder cannot remember names: requested experimental feature exec.meta.proxyenv  is not supported by build server, please update "},
		},
		{name: "warnings", without: []apicaps.CapID{gwpb.CapGatewayWarnings}},
		{name: "evaluate", without: []apicaps.CapID{gwpb.CapGatewayEvaluate, gwpb.CapGatewayEvaluateSolve}},
		{name: "source metadata", without: []apicaps.CapID{gwpb.CapSourceMetaResolver, gwpb.CapSourceMetaResolverImageAttestations}},
		{name: "image attestations", without: []apicaps.CapID{gwpb.CapSourceMetaResolverImageAttestations}},
		{name: "layer limit", without: []apicaps.CapID{pb.CapSourceImageLayerLimit}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Without = tt.without
			b.Registry.Push(alpine, fakegateway.Image{})
			build(t, b, simple)
			b.Restart()
			build(t, b, simple)
			equal(t, "requests of the second build", b.Requests(), tt.second)
			equal(t, "warnings of the second build", b.Warnings(), tt.warnings)
		})
	}
}

// A builder before BuildKit 0.12 can take nothing from a store. It asks its
// registries, whatever is remembered, and says so of the first name only.
func TestBuilderWithoutStoresSaysSoOnce(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Without = []apicaps.CapID{pb.CapSourceOCILayout}
	names := []string{alpine, "docker.io/library/busybox:1", "docker.io/library/debian:12"}
	var lines []string
	for i, name := range names {
		b.Registry.Push(name, fakegateway.Image{Content: name})
		lines = append(lines, fmt.Sprintf("FROM %s AS s%d", name, i), "RUN true")
	}
	what := dockerfile(strings.Join(append(lines, "FROM scratch", "COPY --from=s0 / /", "COPY --from=s1 / /", "COPY --from=s2 / /"), "\n") + "\n")
	build(t, b, what)
	b.Restart()
	b.ClearLog()
	build(t, b, what)
	var memory, told int
	for _, line := range b.Lines() {
		if strings.Contains(line, " from memory, ") {
			memory++
		}
		if strings.HasSuffix(line, ", by its digest (this builder cannot be kept from asking the registry)") {
			told++
		}
	}
	equal(t, "names from memory", memory, len(names))
	equal(t, "names of which it is told that the registry is asked", told, 1)
	equal(t, "requests", len(b.Requests()), len(names))
}

// A policy may demand a checksum without another name. It must be met however
// the image is taken.
func TestPolicyDemandsAChecksum(t *testing.T) {
	t.Parallel()
	b, d := seasoned(t)
	other := digest.FromString("another image").String()
	rule := func(id string) *spb.Rule {
		return &spb.Rule{
			Action:   spb.PolicyAction_CONVERT,
			Selector: &spb.Selector{Identifier: id, MatchType: spb.MatchType_EXACT},
			Updates:  &spb.Update{Attrs: map[string]string{pb.AttrImageChecksum: other}},
		}
	}
	b.Policy = policy(rule("docker-image://"+alpine), rule("docker-image://"+alpine+"@"+d.String()))
	_, err := run(t, b, simple)
	if err == nil || !strings.Contains(err.Error(), "does not match expected checksum "+other) {
		t.Errorf("error %v, want that the checksum does not match", err)
	}
}

// A policy that converts the very digest must be obeyed too.
func TestPolicyConvertsTheDigest(t *testing.T) {
	t.Parallel()
	b, d := seasoned(t)
	other := b.Registry.Push("mirror.test/alpine:3.20", fakegateway.Image{Content: "patched"})
	b.Policy = policy(&spb.Rule{
		Action:   spb.PolicyAction_CONVERT,
		Selector: &spb.Selector{Identifier: "docker-image://" + alpine + "@" + d.String()},
		Updates:  &spb.Update{Identifier: "docker-image://mirror.test/alpine:3.20@" + other.String()},
	})
	b.Registry.Down("docker.io", errUnreachable)
	build(t, b, simple)
	if got := b.Requests(); len(got) == 0 || !strings.Contains(got[0], "mirror.test") {
		t.Errorf("requests %v, want that the image comes from mirror.test", got)
	}
}

// With the docker driver and the containerd image store, docker build -t mine
// moves the name on this very engine.
func TestImageStoreImageBuiltAgain(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.AddImageStore()
	b.Store("mine:latest", fakegateway.Image{Content: "one"}, false)
	what := with(dockerfile("FROM mine\nRUN true\n"), "image-resolve-mode", "local")
	build(t, b, what)
	now := b.Store("mine:latest", fakegateway.Image{Content: "two"}, false)
	res := build(t, b, what)
	equal(t, "source", sources(res.Refs[""]), []string{"docker-image://docker.io/library/mine:latest@" + now.String()})
}

func TestScopesRememberApart(t *testing.T) {
	t.Parallel()
	b, was := seasoned(t)
	now := b.Registry.Push(alpine, fakegateway.Image{Content: "new"})
	scoped := dockerfile("FROM alpine:3.20\nRUN true\n", "scope=a")
	build(t, b, scoped)
	for range 2 {
		equal(t, "in the scope", from(build(t, b, scoped)), "oci-layout://"+alpine+"@"+now.String())
		equal(t, "in the scope, by build arg", from(build(t, b, with(simple, "build-arg:LOCALFRONT_SCOPE", "a"))), "oci-layout://"+alpine+"@"+now.String())
		equal(t, "outside of it", from(build(t, b, simple)), "oci-layout://"+alpine+"@"+was.String())
	}
	equal(t, "what all others know", recall(t, b, alpine).Digest, was)
}
