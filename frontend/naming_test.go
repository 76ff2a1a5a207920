package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/calls"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/internal/fakegateway"
)

func TestParseNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ value, want, err string }{
		{value: "foo", want: "docker.io/library/foo:latest"},
		{value: "team/base:1.2,localhost/foo,foo,foo:latest", want: "docker.io/team/base:1.2 localhost/foo:latest docker.io/library/foo:latest"},
		{value: "localhost:5000/x/y", want: "localhost:5000/x/y:latest"},
		{value: "Foo", err: `"Foo" is no name for an image: invalid reference format: repository name (library/Foo) must be lowercase`},
		{value: "foo,", err: `"" is no name for an image: invalid reference format`},
		{value: "foo bar", err: `"foo bar" is no name for an image: invalid reference format`},
		{value: "foo@" + digestOfAlpine, err: `"foo@` + digestOfAlpine + `" has a digest, and a name stands for what was built last: leave the digest out`},
		{value: "scratch", err: `"scratch" always means the empty image: choose another name`},
		{value: "scratch:1", err: `"scratch:1" always means the empty image: choose another name`},
		{value: strings.Repeat("0123456789abcdef", 4), err: `"` + strings.Repeat("0123456789abcdef", 4) +
			`" is no name for an image: invalid repository name (` + strings.Repeat("0123456789abcdef", 4) + `), cannot specify 64-byte hexadecimal strings`},
	} {
		names, err := parseNames(tt.value)
		var text string
		if err != nil {
			text = err.Error()
		}
		equal(t, tt.value, strings.Join(keys(names), " "), tt.want)
		equal(t, tt.value+": error", text, tt.err)
	}
}

const (
	foosFile = "FROM alpine:3.20\nENV A=b\nWORKDIR /w\nUSER me\nRUN touch foo\nLABEL l=m\nONBUILD RUN triggered\nENTRYPOINT [\"/e\"]\n"
	barsFile = "FROM foo\nRUN touch bar\n"
)

var (
	foo = dockerfile(foosFile, "name=foo")
	bar = dockerfile(barsFile)
)

// fooed returns a builder that has built foo and can reach no registry.
func fooed(t *testing.T) *fakegateway.Builder {
	t.Helper()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, foo)
	b.Restart()
	b.Registry.Down("docker.io", errUnreachable)
	return b
}

// steps lists what the definition of a result runs, in order.
func steps(t *testing.T, res *fakegateway.Result, key string) []string {
	t.Helper()
	var all []string
	for _, dt := range res.Refs[key].Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		if op.GetOp() == nil {
			continue
		}
		if name, ok := res.Refs[key].Metadata[digest.FromBytes(dt).String()].GetDescription()["llb.customname"]; ok {
			all = append(all, name)
		}
	}
	return all
}

// shown lists the lines of what took no time.
func shown(b *fakegateway.Builder) []string {
	var all []string
	for _, c := range b.Calls(fakegateway.Solve) {
		for _, m := range c.Definition.GetMetadata() {
			if name := m.Description["llb.customname"]; strings.Contains(name, "named result") {
				all = append(all, ages.ReplaceAllString(name, "AGE"))
			}
		}
	}
	return all
}

// ages are those of what was built a moment ago, on however busy a machine.
var ages = regexp.MustCompile(`(less than a second|[0-9]+ seconds?|about a minute|[0-9]+ minutes) ago`)

func TestFromWhatWasBuiltBefore(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	res := build(t, b, bar)
	equal(t, "requests", b.Requests(), nil)
	equal(t, "warnings", b.Warnings(), nil)
	equal(t, "lines", shown(b), []string{"[internal] foo:latest named result, built AGE"})
	equal(t, "containers", slices.DeleteFunc(b.Containers(), func(c string) bool { return strings.HasPrefix(c, "/agent") }), []string{
		"/bin/sh -c triggered", "/bin/sh -c touch bar",
	})
	equal(t, "sources", slices.DeleteFunc(sources(res.Refs[""]), func(s string) bool { return strings.HasSuffix(s, " apart") }), []string{
		"oci-layout://" + alpine + "@" + digestOfAlpine,
	})
	all := strings.Join(steps(t, res, ""), "\n")
	for _, want := range []string{"[foo 1/3] FROM docker.io/library/alpine:3.20@" + digestOfAlpine, "[foo 2/3] WORKDIR /w", "[foo 3/3] RUN touch foo", "RUN touch bar"} {
		if !strings.Contains(all, want) {
			t.Errorf("no step %q in\n%s", want, all)
		}
	}
	config := string(res.Metadata["containerimage.config"])
	for _, want := range []string{`"A=b"`, `"User":"me"`, `"WorkingDir":"/w"`, `"l":"m"`, `"Entrypoint":["/e"]`} {
		if !strings.Contains(config, want) {
			t.Errorf("no %s in the config\n%s", want, config)
		}
	}
	if strings.Contains(config, "OnBuild") {
		t.Errorf("triggers are inherited twice: %s", config)
	}
	// The second time there is nothing to look for.
	build(t, b, bar)
	equal(t, "containers of the second bar", b.Containers(), nil)
}

func TestEveryWayToNameAResult(t *testing.T) {
	t.Parallel()
	for name, what := range map[string]fakegateway.Build{
		"FROM":              bar,
		"FROM AS":           dockerfile("FROM foo AS x\nRUN a\nFROM x\nRUN b\n"),
		"FROM ARG":          with(dockerfile("ARG F=none\nFROM $F\nRUN true\n"), "build-arg:F", "foo"),
		"COPY --from":       dockerfile("FROM scratch\nCOPY --from=foo /a /b\n"),
		"RUN --mount":       dockerfile("FROM foo\nRUN --mount=from=foo,target=/m true\n"),
		"many times":        dockerfile("FROM foo AS a\nRUN a\nFROM foo AS b\nRUN b\nFROM foo\nCOPY --from=a / /\nCOPY --from=b / /\n"),
		"ONBUILD":           dockerfile("FROM triggers\n"),
		"a named context":   with(dockerfile("FROM x\nRUN true\n"), "context:x", "docker-image://foo"),
		"a replaced name":   with(dockerfile("FROM gone\nRUN true\n"), "context:gone", "docker-image://foo"),
		"by its long name":  dockerfile("FROM docker.io/library/foo:latest\nRUN true\n"),
		"with --no-cache":   with(bar, "no-cache", ""),
		"with --pull":       with(bar, "image-resolve-mode", "pull"),
		"offline":           dockerfile(barsFile, "offline"),
		"the docker driver": with(bar, "image-resolve-mode", "local"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			build(t, b, dockerfile("FROM alpine:3.20\nRUN touch foo\n", "name=foo"))
			build(t, b, dockerfile("FROM alpine:3.20\nONBUILD COPY --from=foo /a /b\n", "name=triggers"))
			b.Restart()
			b.Registry.Down("docker.io", errUnreachable)
			res := build(t, b, what)
			equal(t, "requests", b.Requests(), nil)
			if c := b.Containers(); slices.Contains(c, "/bin/sh -c touch foo") {
				t.Errorf("foo was built again: %q", c)
			}
			if all := steps(t, res, ""); !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "[foo 2/2] RUN touch foo") }) {
				t.Errorf("foo's step is not in it: %q", all)
			}
			seen := map[string]bool{}
			for _, dt := range res.Refs[""].Def {
				if d := digest.FromBytes(dt).String(); seen[d] {
					t.Error("a vertex is there twice")
				} else {
					seen[d] = true
				}
			}
		})
	}
}

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	build(t, b, foo)
	equal(t, "containers", b.Containers(), nil)
	equal(t, "evaluations", len(b.Calls(fakegateway.Evaluate)), 0)
	build(t, b, with(foo, "no-cache", ""))
	equal(t, "with --no-cache", b.Containers(), []string{"/bin/sh -c touch foo"})
	changed := dockerfile(foosFile+"LABEL x=y\n", "name=foo")
	build(t, b, changed)
	equal(t, "changed", b.Containers(), []string{"/agent localfront/v1 result docker.io/library/foo:latest"})
}

func TestFailedBuildLeavesTheOldRecord(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	b.Inject(fakegateway.Fault{Kind: fakegateway.Container, Match: "fails", Err: errUnreachable})
	if _, err := run(t, b, dockerfile("FROM alpine:3.20\nRUN fails\n", "name=foo")); err == nil {
		t.Fatal("the build succeeded")
	}
	res := build(t, b, bar)
	if all := steps(t, res, ""); !slices.Contains(all, "[foo 3/3] RUN touch foo") {
		t.Errorf("another foo: %q", all)
	}
}

func TestSeveralNamesAndPlatforms(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	both := []string{"linux/amd64", "linux/arm64"}
	b.Registry.Push(alpine, fakegateway.Image{Platforms: both})
	what := dockerfile("FROM alpine:3.20\nARG TARGETARCH\nRUN for $TARGETARCH\n", "name=word")
	build(t, b, with(what, "platform", strings.Join(both, ","), "build-arg:LOCALFRONT_NAME", "team/base:1.2,localhost/foo"))
	for _, name := range []string{"team/base:1.2", "localhost/foo"} {
		for _, p := range [][]string{both, both[:1], both[1:]} {
			res := build(t, b, with(dockerfile("FROM "+name+"\nRUN x\n"), "platform", strings.Join(p, ",")))
			for key := range res.Refs {
				want := "RUN for ${TARGETARCH:-" // what follows is the platform
				if !slices.ContainsFunc(steps(t, res, key), func(s string) bool {
					return strings.HasPrefix(s, "["+strings.TrimSuffix(name, ":latest")+" ") && strings.Contains(s, "RUN for")
				}) {
					t.Errorf("%s for %s: no step %s in %q", name, p, want, steps(t, res, key))
				}
			}
		}
	}
	res := build(t, b, with(dockerfile("FROM --platform=linux/arm64 localhost/foo\nRUN x\n"), "platform", "linux/amd64"))
	equal(t, "references", slices.Sorted(maps.Keys(res.Refs)), []string{""})
	_, err := run(t, b, dockerfile("FROM word\nRUN x\n"))
	if err == nil || !strings.Contains(err.Error(), "no build on this builder was named word") {
		t.Errorf("the build arg does not win: %v", err)
	}
	_, err = run(t, b, with(dockerfile("FROM localhost/foo\nRUN x\n"), "platform", "linux/s390x"))
	fails(t, err, "localhost/foo: localhost/foo:latest was built on this builder for linux/amd64, linux/arm64, not for linux/s390x: build it with --platform linux/amd64,linux/arm64,linux/s390x", "Dockerfile:1")
}

func TestCycle(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	build(t, b, dockerfile(barsFile, "name=bar"))
	build(t, b, dockerfile("FROM bar\nRUN c\n", "name=c"))
	_, err := run(t, b, dockerfile("FROM c\nRUN d\n", "name=foo"))
	fails(t, err, "c: named results in a cycle: foo is made from c, which was made from bar, which was made from foo: give one of them another name", "Dockerfile:1")
	// Its own name is an image's.
	b.Registry.Down("docker.io", nil)
	b.Registry.Push("foo", fakegateway.Image{Content: "the registry's"})
	res := build(t, b, dockerfile("FROM foo\nRUN d\n", "name=foo"))
	if all := strings.Join(steps(t, res, ""), " "); strings.Contains(all, "[foo ") {
		t.Errorf("it is made from itself: %s", all)
	}
}

// A build of another directory uses the files of the first, not its own.
func TestContextsAreFrozen(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	what := dockerfile("FROM alpine:3.20\nCOPY . /src\nRUN make\n", "name=foo")
	what.Locals["context"] = map[string]string{"file": "foo's"}
	res := build(t, b, what)
	equal(t, "the build's own sources", strings.Contains(strings.Join(sources(res.Refs[""]), " "), "local://"), false)
	again := dockerfile("FROM foo\nCOPY . /bar\n")
	again.Locals["context"] = map[string]string{"file": "bar's"}
	res = build(t, b, again)
	equal(t, "containers", slices.DeleteFunc(b.Containers(), func(c string) bool { return strings.HasPrefix(c, "/agent") }), nil)
	locals := slices.DeleteFunc(sources(res.Refs[""]), func(s string) bool { return !strings.HasPrefix(s, "local://") })
	equal(t, "the user's files", locals, []string{"local://context"}) // only bar's COPY
	// Unchanged, nothing runs; changed, all that depends on it does.
	build(t, b, what)
	equal(t, "unchanged", b.Containers(), nil)
	what.Locals["context"] = map[string]string{"file": "edited"}
	build(t, b, what)
	equal(t, "edited", slices.Contains(b.Containers(), "/bin/sh -c make"), true)
}

func TestUnrecordable(t *testing.T) {
	t.Parallel()
	const still = "foo:latest is not recorded, and stands for what it did before: "
	layout := with(dockerfile("FROM x\nRUN true\n", "name=foo"), "context:x", "oci-layout://theirs@"+digestOfAlpine)
	layout.Stores = map[string]fakegateway.Image{"theirs": {}}
	for name, tt := range map[string]struct {
		what fakegateway.Build
		want string
	}{
		"oci-layout": {layout, still + "[context x] OCI load from client: an image of the user's session"},
		"a file that the builder cannot tell": {
			dockerfile("FROM alpine:3.20\nADD https://example.com/f /f\n", "name=foo"),
			still + "this builder cannot tell what https://example.com/f is: use BuildKit 0.25 or later, or give it a --checksum in the Dockerfile",
		},
		"an empty image": {dockerfile("FROM scratch\nENV a=b\n", "name=foo"), still + "for linux/amd64 the result is empty"},
		"too large": {
			dockerfile("FROM alpine:3.20\n"+noise(20, 50_000)+"RUN true\n", "name=foo"), still + "its definition is too large: entry is too large for the ledger: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			build(t, b, foo)
			build(t, b, tt.what)
			w := b.Warnings()
			if len(w) != 1 || !strings.HasPrefix(w[0], tt.want) {
				t.Errorf("warnings %q, want %s", w, tt.want)
			}
			if all := steps(t, build(t, b, bar), ""); !slices.Contains(all, "[foo 3/3] RUN touch foo") {
				t.Errorf("another foo: %q", all)
			}
		})
	}
}

// noise returns lines of a Dockerfile that compress badly.
func noise(lines, length int) string {
	var text strings.Builder
	d := digest.FromString("")
	for n := range lines {
		fmt.Fprintf(&text, "ENV a%d=", n)
		for range length / 64 {
			d = digest.FromString(d.String())
			text.WriteString(d.Encoded())
		}
		text.WriteString("\n")
	}
	return text.String()
}

// planted writes a result as any frontend on the builder could, with change made
// to what is stored.
func planted(t *testing.T, b *fakegateway.Builder, name string, r ledger.Result, change func(string) string) {
	t.Helper()
	s := b.Session(fakegateway.Build{})
	defer s.Close()
	c, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.New(&changing{Client: c, change: change}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Expect(t.Context(), name).Write(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// changing is a client that changes the first result that is written through it.
type changing struct {
	client.Client
	change func(string) string
}

// Solve relies on a write being one step and the vertex that names it.
func (c *changing) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	def := req.Definition
	write := &pb.Op{}
	if at := len(def.GetDef()) - 2; at >= 0 && c.change != nil {
		if err := write.UnmarshalVT(def.Def[at]); err != nil {
			return nil, err
		}
		env := write.GetExec().GetMeta().GetProxyEnv()
		if !strings.Contains(env.GetHttpProxy(), `"platforms"`) {
			return c.Client.Solve(ctx, req)
		}
		env.HttpProxy, c.change = c.change(env.HttpProxy), nil
		step, err := write.MarshalVT()
		if err != nil {
			return nil, err
		}
		is, was := digest.FromBytes(step).String(), digest.FromBytes(def.Def[at]).String()
		last, err := (&pb.Op{Inputs: []*pb.Input{{Digest: is}}}).MarshalVT()
		if err != nil {
			return nil, err
		}
		def = def.CloneVT()
		def.Def, def.Metadata[is] = append(def.Def[:at], step, last), def.Metadata[was]
		delete(def.Metadata, was)
		req.Definition = def
	}
	return c.Client.Solve(ctx, req)
}

func TestUnusableRecordCountsAsAbsent(t *testing.T) {
	t.Parallel()
	build := ledger.Build{Definition: []byte("x"), Config: []byte("{}")}
	for name, tt := range map[string]struct {
		change func(string) string
		want   string
	}{
		"no definition":   {nil, "for linux/amd64: invalid definition: "},
		"truncated":       {func(v string) string { return v[:len(v)/2] }, "ledger value: unexpected end of JSON input"},
		"without its end": {func(v string) string { return v[:len(v)-1] }, "ledger value: the definition for linux/amd64 is cut off"},
		"of a newer version": {
			func(v string) string { return strings.Replace(v, `"version":1`, `"version":2`, 1) }, "ledger value: version 2, want 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fooed(t)
			planted(t, b, "docker.io/library/foo:latest", ledger.Result{Platforms: map[string]ledger.Build{"linux/amd64": build}}, tt.change)
			_, err := run(t, b, bar)
			if err == nil || !strings.Contains(err.Error(), "no build on this builder was named foo") {
				t.Errorf("error %v", err)
			}
			w := b.Warnings()
			want := "what was built as foo on this builder cannot be used, so it counts as unknown: build it again: " + tt.want
			if len(w) != 1 || !strings.HasPrefix(w[0], want) {
				t.Errorf("warnings %q, want %s", w, want)
			}
		})
	}
}

func TestLocalNamesNeverReachARegistry(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	b.Registry.Push("localhost/fob", fakegateway.Image{})
	_, err := run(t, b, dockerfile("FROM localhost/fob\n"))
	fails(t, err, "localhost/fob: localhost/fob:latest is not known on this builder, and names under localhost/ are never asked of a registry (known are foo): "+
		"build it with name=localhost/fob:latest on its # syntax= line or --build-arg LOCALFRONT_NAME=localhost/fob:latest", "Dockerfile:1")
	equal(t, "requests", b.Requests(), nil)
}

func TestPrunedBuilder(t *testing.T) {
	t.Parallel()
	b := fooed(t)
	b.Prune()
	_, err := run(t, b, bar)
	fails(t, err, `failed to do request: Head "docker.io/library/foo:latest": dial tcp: network is unreachable `+"(and no build on this builder was named foo: name one with name=foo on its # syntax= line or --build-arg LOCALFRONT_NAME=foo)", "Dockerfile:1")
}

func TestCallNames(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	names := with(dockerfile("FROM scratch\n"), keyRequestID, "frontend.names")
	equal(t, "on a new builder", string(build(t, b, names).Metadata["result.txt"]), "no build on this builder has been named\n")
	b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, with(foo, "filename", "Dockerfile"))
	build(t, b, dockerfile(barsFile, "name=team/bar:1,localhost/bar"))
	res := build(t, b, names)
	equal(t, "text", regexp.MustCompile(` +`).ReplaceAllString(ages.ReplaceAllString(string(res.Metadata["result.txt"]), "AGE"), " "), `NAME PLATFORMS BUILT DOCKERFILE FROM
foo linux/amd64 AGE Dockerfile 
team/bar:1 linux/amd64 AGE Dockerfile foo
localhost/bar linux/amd64 AGE Dockerfile foo
`)
	var all []calls.Named
	if err := json.Unmarshal(res.Metadata["result.json"], &all); err != nil || len(all) != 3 || all[1].From[0] != "foo" {
		t.Errorf("%v: %+v", err, all)
	}
	equal(t, "status", string(res.Metadata["result.statuscode"]), "0")
	equal(t, "requests", b.Requests(), nil)
	b.Prune()
	equal(t, "on a pruned builder", string(build(t, b, names).Metadata["result.txt"]), "no build on this builder has been named\n")
}

// A step that runs again without what it wants says whose step it is.
func TestMissingSecret(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	build(t, b, dockerfile("FROM alpine:3.20\nRUN --mount=type=secret,id=token,required --mount=type=ssh,required fetch\nRUN other\n", "name=foo"))
	build(t, b, bar)
	equal(t, "containers", slices.Contains(b.Containers(), "/bin/sh -c fetch"), false)
	b.PruneLayers()
	b.Inject(fakegateway.Fault{Kind: fakegateway.Container, Match: "fetch", Err: errors.New("secret token: not found")})
	_, err := run(t, b, bar)
	fails(t, err, `the named result foo is no longer whole on this builder, and "[foo stage-0 2/3] RUN --mount=type=secret,id=token,required --mount=type=ssh,required fetch", which runs again, `+
		`wants the secret token and the SSH agent default: give this build --secret id=token,… --ssh default, or build foo again: secret token: not found`, "Dockerfile:2")
}

// Where both a step and the files that it needs were collected, the error says
// what to build; the files of the build that asks are never taken instead.
func TestCollectedContext(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	b.Registry.Push(alpine, fakegateway.Image{})
	foo := dockerfile("FROM alpine:3.20\nCOPY . /src\n", "name=foo")
	foo.Locals["context"] = map[string]string{"file": "foo's"}
	build(t, b, foo)
	b.PruneContent()
	what := dockerfile("FROM foo\nCOPY . /bar\n")
	what.Locals["context"] = map[string]string{"file": "bar's"}
	_, err := run(t, b, what)
	fails(t, err, `the named result foo is no longer whole on this builder: the files of its context "context" were collected, so build foo again: `+
		`process ["/freeze" "take" "sha256:dbf2cd2e38aca341398f5b8746a57b3f6d7a55740abb284e08d44b1a83f71b46"] did not complete successfully: exit code: 4`, "Dockerfile:2")
	build(t, b, foo)
	build(t, b, what)
}
