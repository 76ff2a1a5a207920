package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/fakegateway"
)

// alpine is the image that most tests build from.
const alpine = "docker.io/library/alpine:3.20"

// What a registry is asked for alpine on an empty builder.
var (
	alpineMetadata = []string{
		"HEAD docker.io/library/alpine:3.20",
		"GET docker.io/library/alpine index",
		"GET docker.io/library/alpine manifest linux/amd64",
		"GET docker.io/library/alpine config linux/amd64",
	}
	alpineLayer = "GET docker.io/library/alpine layer linux/amd64"
)

var errUnreachable = errors.New("dial tcp: network is unreachable")

// dockerfile returns a build of a Dockerfile by a # syntax= line with words.
func dockerfile(text string, words ...string) fakegateway.Build {
	cmdline := strings.Join(append([]string{"ghcr.io/org/localfront"}, words...), " ")
	return fakegateway.Build{
		Opts: map[string]string{keyCmdline: cmdline},
		Locals: map[string]map[string]string{
			"dockerfile": {"Dockerfile": text},
			"context":    {"file": "content"},
		},
	}
}

// with returns what with more options, given as key, value, key, value.
func with(what fakegateway.Build, opts ...string) fakegateway.Build {
	what.Opts = maps.Clone(what.Opts)
	for kv := range slices.Chunk(opts, 2) {
		what.Opts[kv[0]] = kv[1]
	}
	return what
}

// run builds and returns what buildkitd has then. The builder's log is that of
// this build.
func run(t *testing.T, b *fakegateway.Builder, what fakegateway.Build) (*fakegateway.Result, error) {
	t.Helper()
	b.ClearLog()
	what.Opts = maps.Clone(what.Opts) // dockerui changes it
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return b.Session(what).Run(ctx, Build)
}

// build builds, which must succeed.
func build(t *testing.T, b *fakegateway.Builder, what fakegateway.Build) *fakegateway.Result {
	t.Helper()
	res, err := run(t, b, what)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return res
}

// equal compares what was got with what is wanted; nil and empty are the same.
func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	empty := cmp.FilterValues(func(a, b []string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
	if diff := cmp.Diff(want, got, empty); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// fails checks the error of a build and where in which file it points, such as
// "Dockerfile:1", empty for nowhere.
func fails(t *testing.T, err error, want, where string) {
	t.Helper()
	if err == nil {
		t.Fatalf("the build succeeded, want: %s", want)
	}
	equal(t, "error", err.Error(), want)
	var at string
	if srcs := errdefs.Sources(err); len(srcs) > 0 {
		at = fmt.Sprintf("%s:%d", srcs[0].Info.Filename, srcs[0].Ranges[0].Start.Line)
	}
	equal(t, "place of the error", at, where)
}

// sources lists the source ops of a definition, and marks those that nothing
// depends on.
func sources(def *pb.Definition) []string {
	used := map[string]bool{}
	ops := map[string]*pb.Op{}
	var order []string
	for _, dt := range def.GetDef() {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			panic(err)
		}
		d := digest.FromBytes(dt).String()
		ops[d] = op
		order = append(order, d)
		for _, in := range op.Inputs {
			used[in.Digest] = true
		}
	}
	var out []string
	for _, d := range order {
		src := ops[d].GetSource()
		if src == nil {
			continue
		}
		line := src.Identifier
		if p := ops[d].GetPlatform(); p != nil && p.Architecture != "amd64" {
			line += " " + p.Architecture
		}
		if !used[d] {
			line += " apart"
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// remember puts an entry into the ledger of b.
func remember(t *testing.T, b *fakegateway.Builder, name string, img ledger.Image) {
	t.Helper()
	s := b.Session(fakegateway.Build{Opts: map[string]string{}})
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.New(c, graph.Guard)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(t.Context(), name, ledger.Entry{Image: &img}); err != nil {
		t.Fatal(err)
	}
}

// recall returns what the ledger of b has for a name.
func recall(t *testing.T, b *fakegateway.Builder, name string) *ledger.Image {
	t.Helper()
	s := b.Session(fakegateway.Build{Opts: map[string]string{}})
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.New(c, graph.Guard)
	if err != nil {
		t.Fatal(err)
	}
	e, _, err := l.Read(t.Context(), name, "docker-image://"+name)
	if err != nil {
		t.Fatal(err)
	}
	return e.Image
}

// age makes what b remembers of a name older.
func age(t *testing.T, b *fakegateway.Builder, name string, by time.Duration) {
	t.Helper()
	img := recall(t, b, name)
	if img == nil {
		t.Fatalf("nothing is remembered of %s", name)
	}
	img.Resolved = img.Resolved.Add(-by)
	remember(t, b, name, *img)
}

func TestAsksOnceAndRemembers(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	d := b.Registry.Push(alpine, fakegateway.Image{})
	what := dockerfile("FROM alpine:3.20\nRUN true\n")

	res := build(t, b, what)
	equal(t, "requests of the first build", b.Requests(), append(slices.Clone(alpineMetadata), alpineLayer))
	containers := b.Containers()
	slices.Sort(containers[:2]) // the two reads are at once
	equal(t, "containers of the first build", containers, []string{
		"/agent localfront/v1 " + alpine, // nothing is known yet
		"/agent localfront/v1 results",
		"/bin/sh -c true",
		"/agent localfront/v1 " + alpine, // what is known now
	})
	equal(t, "sources of the first build", sources(res.Refs[""]), []string{"docker-image://" + alpine + "@" + d.String()})
	equal(t, "lines of the first build", b.Lines(), []string{
		"[internal] alpine:3.20 from registry",
	})

	b.Restart()
	b.Registry.Down("docker.io", errUnreachable)
	res = build(t, b, what)
	equal(t, "requests of the second build", b.Requests(), nil)
	equal(t, "containers of the second build", b.Containers(), nil)
	equal(t, "sources of the second build", sources(res.Refs[""]), []string{
		"docker-image://" + alpine + "@" + d.String() + " apart",
		"oci-layout://" + alpine + "@" + d.String(),
	})
	equal(t, "lines of the second build", b.Lines(), []string{
		"[internal] alpine:3.20 from memory, less than a second old",
	})
	equal(t, "warnings", b.Warnings(), nil)
}
