//go:build !race

package frontend

// These builds resolve more than one name, and BuildKit's own frontend has a
// race there: each sets withResolveCache.g.CacheError to true
// (frontend/dockerfile/builder/resolvecache.go). TestNamesAtTheSameTime looks
// for races in what is localfront's.

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/org/localfront/internal/fakegateway"
)

func TestEveryWayToNameAnImage(t *testing.T) {
	t.Parallel()
	both := []string{"linux/amd64", "linux/arm64"}
	var ten strings.Builder
	for i := range 10 {
		fmt.Fprintf(&ten, "FROM base:%d AS s%d\nRUN true\n", i, i)
	}
	ten.WriteString("FROM scratch\n")
	for i := range 10 {
		fmt.Fprintf(&ten, "COPY --from=s%d /f /f%d\n", i, i)
	}
	pinned := fakegateway.NewBuilder().Registry.Push(alpine, fakegateway.Image{Platforms: both})
	tests := []struct {
		name string
		what fakegateway.Build
		refs []string // keys of the result
	}{
		{name: "FROM", what: dockerfile("FROM alpine:3.20\nRUN true\n")},
		{name: "FROM with a digest", what: dockerfile("FROM alpine@" + pinned.String() + "\nRUN true\n")},
		{name: "FROM with a tag and a digest", what: dockerfile("FROM alpine:3.20@" + pinned.String() + "\nRUN true\n")},
		{name: "FROM with an ARG", what: with(dockerfile("ARG V=1\nFROM alpine:$V\nRUN true\n"), "build-arg:V", "3.20")},
		{name: "FROM for another platform", what: with(dockerfile("FROM alpine:3.20\nRUN true\n"), "platform", "linux/arm64")},
		{name: "COPY --from", what: dockerfile("FROM scratch\nCOPY --from=alpine:3.20 /f /f\n")},
		{name: "RUN --mount", what: dockerfile("FROM alpine:3.20\nRUN --mount=from=base:1,target=/m true\n")},
		{name: "a named context", what: with(dockerfile("FROM other\nRUN true\n"), "context:other", "docker-image://alpine:3.20")},
		{name: "a replaced name", what: with(dockerfile("FROM gone\nRUN true\n"), "context:gone", "docker-image://alpine:3.20")},
		{name: "ONBUILD", what: dockerfile("FROM onbuild\nRUN true\n")},
		{name: "ten bases", what: dockerfile(ten.String())},
		{
			name: "two platforms",
			what: with(dockerfile("FROM alpine:3.20\nRUN true\n"), "platform", "linux/amd64,linux/arm64"),
			refs: both,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{Platforms: both})
			b.Registry.Push("onbuild", fakegateway.Image{OnBuild: []string{"COPY --from=base:2 /f /f"}})
			for i := range 10 {
				b.Registry.Push(fmt.Sprintf("base:%d", i), fakegateway.Image{Content: fmt.Sprint(i), Layers: i + 1})
			}
			build(t, b, tt.what)
			if len(b.Requests()) == 0 {
				t.Error("the first build made no request")
			}
			b.Restart()
			b.Registry.Down("docker.io", errUnreachable)
			res := build(t, b, tt.what)
			equal(t, "requests of the second build", b.Requests(), nil)
			equal(t, "containers of the second build", b.Containers(), nil)
			equal(t, "warnings", b.Warnings(), nil)
			refs := tt.refs
			if refs == nil {
				refs = []string{""}
			}
			equal(t, "results", slices.Sorted(maps.Keys(res.Refs)), refs)
			for key, def := range res.Refs {
				for _, src := range sources(def) {
					if strings.HasPrefix(src, "docker-image://") && !strings.HasSuffix(src, " apart") {
						t.Errorf("%s takes %s from its registry", key, src)
					}
				}
			}
		})
	}
}

func TestMultiPlatformResult(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	both := []string{"linux/amd64", "linux/arm64"}
	b.Registry.Push(alpine, fakegateway.Image{Platforms: both})
	res := build(t, b, with(simple, "platform", strings.Join(both, ",")))
	equal(t, "references", slices.Sorted(maps.Keys(res.Refs)), both)
	var ps exptypes.Platforms
	if err := json.Unmarshal(res.Metadata[exptypes.ExporterPlatformsKey], &ps); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range ps.Platforms {
		ids = append(ids, p.ID)
		if len(res.Metadata[exptypes.ExporterImageConfigKey+"/"+p.ID]) == 0 {
			t.Errorf("no image config for %s", p.ID)
		}
	}
	equal(t, "refs.platforms", ids, both)
	equal(t, "what is remembered", slices.Sorted(maps.Keys(recall(t, b, alpine).Platforms)), both)
}

func TestUnreadableMemory(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	b.Registry.Push("busybox", fakegateway.Image{Content: "busybox"})
	b.Inject(fakegateway.Fault{Kind: fakegateway.Container, Match: "/agent", Err: errUnreachable})
	build(t, b, dockerfile("FROM alpine:3.20 AS a\nRUN true\nFROM busybox\nCOPY --from=a / /\n"))
	var warnings []string
	for _, w := range b.Warnings() { // which of the two comes first is chance
		warnings = append(warnings, strings.NewReplacer(alpine, "NAME", "docker.io/library/busybox:latest", "NAME", "alpine:3.20", "NAME", "busybox", "NAME").Replace(w))
	}
	slices.Sort(warnings)
	equal(t, "warnings", slices.Compact(warnings), []string{
		"NAME is not remembered: dial tcp: network is unreachable",
		"what is remembered of NAME cannot be read, so it counts as unknown: dial tcp: network is unreachable",
		"what was built as NAME on this builder cannot be used, so it counts as unknown: build it again: dial tcp: network is unreachable",
	})
}
