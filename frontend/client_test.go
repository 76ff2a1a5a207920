package frontend

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/internal/fakegateway"
)

func TestSubrequests(t *testing.T) {
	t.Parallel()
	const text = "# a stage\nFROM alpine:3.20 AS first\nrun true\n"
	tests := []struct {
		id     string
		want   string   // part of result.json
		second []string // requests of the second time
	}{
		{id: "frontend.lint", want: `"ConsistentInstructionCasing"`},
		{id: "frontend.outline", want: `"name": "first"`},
		{id: "frontend.targets", want: `"name": "first"`},
		{id: "frontend.subrequests.describe", want: `"frontend.outline"`},
		{id: "frontend.subrequests.describe", want: `"frontend.lint"`},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			what := with(dockerfile(text), keyRequestID, tt.id)
			for _, time := range []string{"first", "second"} {
				res := build(t, b, what)
				if got := string(res.Metadata["result.json"]); !strings.Contains(got, tt.want) {
					t.Errorf("%s time: result.json lacks %s:\n%s", time, tt.want, got)
				}
				equal(t, "references", len(res.Refs), 0)
				b.Restart()
			}
			equal(t, "requests of the second time", b.Requests(), nil)
		})
	}
}

func TestUnknownSubrequest(t *testing.T) {
	t.Parallel()
	_, err := run(t, fakegateway.NewBuilder(), with(simple, keyRequestID, "frontend.unknown"))
	fails(t, err, "unsupported request frontend.unknown: unsupported request frontend.unknown", "")
}

// After a lint only the metadata is here: the build must not think that the
// layers are.
func TestBuildAfterLint(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	d := b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, with(simple, keyRequestID, "frontend.lint"))
	res := build(t, b, simple)
	equal(t, "source", from(res), "docker-image://"+alpine+"@"+d.String())
	equal(t, "requests", b.Requests(), []string{alpineLayer})
}

func TestNamesAtTheSameTime(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{Platforms: []string{"linux/amd64", "linux/arm64"}})
	b.Registry.Push("busybox", fakegateway.Image{Content: "busybox"})
	s := b.Session(simple)
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := decorate(c, options{})
	var eg errgroup.Group
	for i := range 32 {
		name := []string{alpine, "busybox", "busybox:latest", "docker.io/library/alpine:3.20"}[i%4]
		p := platforms.MustParse("linux/amd64")
		if strings.Contains(name, "alpine") && i >= 16 {
			p.Architecture = "arm64"
		}
		eg.Go(func() error {
			_, _, _, err := d.ResolveImageConfig(t.Context(), name, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p}})
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	equal(t, "containers", len(b.Containers()), 4) // each name is looked up once: what it was built as, and memory
}

func TestOptionsAreOneCloneWithoutOurOwn(t *testing.T) {
	t.Parallel()
	given := map[string]string{
		keyCmdline: image, "build-arg:LOCALFRONT_OFFLINE": "1", "build-arg:LOCALFRONT_MAX_AGE": "", "build-arg:OTHER": "x",
	}
	kept := maps.Clone(given)
	s := fakegateway.NewBuilder().Session(fakegateway.Build{Opts: given})
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := decorate(c, options{})
	equal(t, "options", d.BuildOpts().Opts, map[string]string{keyCmdline: image, "build-arg:OTHER": "x"})
	d.BuildOpts().Opts["hostname"] = "changed"
	equal(t, "an option that was changed", d.BuildOpts().Opts["hostname"], "changed")
	equal(t, "the options given", given, kept)
}

func TestOwnBuildArgsDoNotReachTheDockerfile(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, with(dockerfile("FROM alpine:3.20\nARG LOCALFRONT_MAX_AGE=none\nARG OTHER\nRUN echo\n"), "build-arg:LOCALFRONT_MAX_AGE", "1h", "build-arg:OTHER", "x"))
	var env []string
	for _, c := range b.Calls(fakegateway.Solve) {
		for _, op := range ops(t, c.Definition) {
			if m := op.GetExec().GetMeta(); m != nil && m.Args[0] != "/agent" {
				env = m.Env
			}
		}
	}
	equal(t, "environment of the step", env, []string{"PATH=/bin", "LOCALFRONT_MAX_AGE=none", "OTHER=x"})
}

func ops(t *testing.T, def *pb.Definition) []*pb.Op {
	t.Helper()
	var out []*pb.Op
	for _, dt := range def.GetDef() {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		out = append(out, op)
	}
	return out
}

// Chosen with buildctl --opt source=…, there is no cmdline.
func TestChosenWithoutASyntaxLine(t *testing.T) {
	t.Parallel()
	const own = "ghcr.io/org/localfront:2"
	tests := []struct {
		name, text string
		opts       []string
		forwarded  string // the frontend that the build is handed to
		err        string
	}{
		{name: "no line", text: "FROM alpine:3.20\nRUN true\n"},
		{name: "its own line", text: "# syntax=" + image + " max-age=1h\nFROM alpine:3.20\nRUN true\n"},
		{name: "words of its own line count", text: "# syntax=" + image + " offline\nFROM alpine:3.20\nRUN true\n",
			err: "alpine:3.20: alpine:3.20 is not known on this builder and offline is set: build once without offline, or build where the name has been resolved before"},
		{name: "another frontend's line", text: "# syntax=docker/dockerfile:1\nFROM alpine:3.20\nRUN true\n"},
		{name: "BUILDKIT_SYNTAX names another", text: "FROM alpine:3.20\nRUN true\n", opts: []string{keySyntaxArg, "docker/dockerfile:1"}, forwarded: "docker/dockerfile:1"},
		{name: "BUILDKIT_SYNTAX names this one", text: "FROM alpine:3.20\nRUN true\n", opts: []string{keySyntaxArg, image}},
		{name: "build args count", text: "# syntax=" + image + "\nFROM alpine:3.20\nRUN true\n", opts: []string{"build-arg:LOCALFRONT_OFFLINE", "1"},
			err: "alpine:3.20: alpine:3.20 is not known on this builder and offline is set: build once without offline, or build where the name has been resolved before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			what := with(dockerfile(tt.text), append(tt.opts, keySource, own)...)
			delete(what.Opts, keyCmdline)
			s := b.Session(what)
			var forwarded string
			s.Forward = func(req *gwpb.SolveRequest) error {
				forwarded = req.FrontendOpt[keySource]
				return nil
			}
			_, err := s.Run(t.Context(), Build)
			equal(t, "forwarded to", forwarded, tt.forwarded)
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %s", err, tt.err)
			}
		})
	}
}

func TestInputsComeFromTheirRegistries(t *testing.T) {
	t.Parallel()
	ref := alpine + "@" + digestOfAlpine
	layout := llb.OCILayout(ref, llb.OCIStore("a session that is gone", emptyStore)).Run(llb.Shlex("true")).Root()
	def, err := layout.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	what := with(dockerfile("FROM base\nRUN true\n"), "context:base", "input:base")
	what.Inputs = map[string]*pb.Definition{"base": def.ToPB()}
	res := build(t, b, what)
	equal(t, "sources", sources(res.Refs[""]), []string{"docker-image://" + ref})
}

func TestLedgerTroubleFailsNoBuild(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault fakegateway.Fault
		want  []string
	}{
		{
			name:  "reading",
			fault: fakegateway.Fault{Kind: fakegateway.Read, Match: "value of /agent localfront/v1 docker.io", Err: errors.New("disk on fire"), Times: 2}, // with the image beside it and without
			want:  []string{"what is remembered of " + alpine + " cannot be read, so it counts as unknown: disk on fire"},
		},
		{
			name:  "writing",
			fault: fakegateway.Fault{Kind: fakegateway.Solve, Match: "(cache ignored)", Err: errors.New("disk on fire")},
			want:  []string{alpine + " is not remembered: disk on fire"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			b.Inject(tt.fault)
			build(t, b, simple)
			equal(t, "warnings", b.Warnings(), tt.want)
			b.Heal()
			build(t, b, simple)
			build(t, b, simple)
			equal(t, "requests once it works", b.Requests(), nil)
		})
	}
}

func TestFailedBuildRemembersNothing(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	b.Inject(fakegateway.Fault{Kind: fakegateway.Container, Match: "/bin/sh", Err: errors.New("exit code: 1")})
	_, err := run(t, b, simple)
	fails(t, err, "exit code: 1", "Dockerfile:2")
	if img := recall(t, b, alpine); img != nil {
		t.Errorf("remembered: %+v", img)
	}
}

func TestCancelledWhileTheRegistryHangs(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Inject(fakegateway.Fault{Kind: fakegateway.Request, Match: "HEAD"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(b.Requests()) == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := b.Session(simple).Run(ctx, Build)
	if err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("error %v, want that the context was canceled", err)
	}
	equal(t, "warnings", b.Warnings(), nil)
}

func TestOfflineLeavesOutRegistryCaches(t *testing.T) {
	t.Parallel()
	b, _ := seasoned(t)
	what := with(dockerfile("FROM alpine:3.20\nRUN true\n", "offline"),
		"cache-imports", `[{"Type":"registry","Attrs":{"ref":"r.test/cache"}},{"Type":"local","Attrs":{"src":"/x"}}]`)
	build(t, b, what)
	equal(t, "warnings", b.Warnings(), []string{`offline: cache import of type registry from "r.test/cache" is left out`})
	var types []string
	for _, c := range b.Calls(fakegateway.Solve) {
		for _, im := range c.Request.CacheImports {
			types = append(types, im.Type)
		}
	}
	equal(t, "cache imports", types, []string{"local"})
}

// The user's own store is the user's: localfront must not answer for it.
func TestNamedOCILayout(t *testing.T) {
	t.Parallel()
	img := fakegateway.Image{Content: "the user's"}
	d := fakegateway.NewBuilder().Registry.Push("x", img)
	b := fakegateway.NewBuilder()
	what := with(dockerfile("FROM base\nRUN true\n"), "context:base", "oci-layout://store@"+d.String())
	what.Stores = map[string]fakegateway.Image{"store": img}
	res := build(t, b, what)
	equal(t, "sources", sources(res.Refs[""]), []string{"oci-layout://docker.io/library/base@" + d.String()})
	equal(t, "requests", b.Requests(), nil)
	equal(t, "ledger", slices.DeleteFunc(b.Containers(), func(c string) bool { return strings.HasPrefix(c, "/bin/sh") }), []string{"/agent localfront/v1 results"})
}

// The docker driver sends image-resolve-mode=local, and its engine answers
// from its image store.
func TestImageStore(t *testing.T) {
	t.Parallel()
	local := with(simple, "image-resolve-mode", "local")
	b := fakegateway.NewBuilder()
	b.AddImageStore()
	b.Store(alpine, fakegateway.Image{}, false)
	b.Registry.Down("docker.io", errUnreachable)
	build(t, b, local)
	build(t, b, local)
}

func TestNothingOnStdout(t *testing.T) { // not parallel: os.Stdout is everybody's
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	was := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = was }()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	for _, what := range []fakegateway.Build{
		simple, simple, dockerfile("FROM alpine:3.20\n", "ofline"), dockerfile("FROM nowhere\n", "offline"), with(simple, keyRequestID, "frontend.lint"),
	} {
		_, _ = run(t, b, what)
	}
	b.Inject(fakegateway.Fault{Kind: fakegateway.Container, Match: "/agent", Err: errUnreachable})
	_, _ = run(t, b, with(simple, "image-resolve-mode", "pull"))
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "stdout", string(got), "")
}

// A reference that is not the client's own is refused, so a decorator must not
// wrap them.
func TestForeignReferenceIsRefused(t *testing.T) {
	t.Parallel()
	type foreign struct{ client.Reference }
	s := fakegateway.NewBuilder().Session(simple)
	_, err := s.Run(t.Context(), func(context.Context, client.Client) (*client.Result, error) {
		res := client.NewResult()
		res.SetRef(foreign{})
		return res, nil
	})
	fails(t, err, "invalid return reference type frontend.foreign", "")
}
