package frontend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/org/localfront/internal/fakegateway"
)

// What a warm build asks the builder for, so that no call comes in unseen.
func TestCallsOfAWarmBuild(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	digest := b.Registry.Push(alpine, fakegateway.Image{}).String()
	what := dockerfile("FROM alpine:3.20\nCOPY file /\nRUN true\n")
	what.Locals["context"][".dockerignore"] = "tmp\n"
	for range 2 {
		build(t, b, what)
	}
	var got []string
	for _, c := range b.Calls() {
		got = append(got, string(c.Kind)+" "+strings.ReplaceAll(c.What, digest, "DIGEST"))
	}
	slices.Sort(got) // much of it happens at the same time
	equal(t, "calls", got, strings.Split(strings.TrimSpace(warmCalls), "\n"))
}

// .dockerignore is seen in the progress, so it is loaded ahead only where nothing
// can fail before BuildKit's frontend asks for it.
func TestDockerignoreAhead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text  string
		opts, files map[string]string
		loads       bool
	}{
		{name: "from memory", text: "FROM alpine:3.20\nRUN true\n", loads: true},
		{name: "no image", text: "FROM scratch\nCOPY f /\n", loads: true},
		{name: "an unknown image", text: "FROM alpine:3.20\nCOPY --from=unknown / /\n"},
		{name: "triggers", text: "FROM onbuild\n"},
		{name: "asked for", text: "FROM alpine:3.20\n", opts: map[string]string{"image-resolve-mode": "pull"}},
		{name: "another platform", text: "FROM alpine:3.20\n", opts: map[string]string{"platform": "linux/arm64"}},
		{name: "max-age", text: "FROM alpine:3.20\n", opts: map[string]string{"build-arg:LOCALFRONT_MAX_AGE": "1ns"}},
		{name: "named", text: "FROM alpine:3.20\n", opts: map[string]string{"build-arg:LOCALFRONT_NAME": "mine"}},
		{name: "lint", text: "FROM alpine:3.20\n", opts: map[string]string{"requestid": "frontend.lint"}},
		{name: "an ignore file of its own", text: "FROM alpine:3.20\n", files: map[string]string{"Dockerfile.dockerignore": "x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fakegateway.NewBuilder()
			b.Registry.Push(alpine, fakegateway.Image{})
			b.Registry.Push("onbuild", fakegateway.Image{OnBuild: []string{"RUN true"}})
			build(t, b, dockerfile("FROM alpine:3.20\nRUN true\n"))
			build(t, b, dockerfile("FROM onbuild\nRUN true\n"))
			b.ClearLog()
			// BuildKit's frontend comes to it after all names.
			errs := errors.New("not yet")
			b.Inject(fakegateway.Fault{Kind: fakegateway.Resolve, Err: errs})
			b.Inject(fakegateway.Fault{Kind: fakegateway.Request, Err: errs})
			what := dockerfile(tt.text)
			maps.Copy(what.Opts, tt.opts)
			maps.Copy(what.Locals["dockerfile"], tt.files)
			_, _ = run(t, b, what)
			equal(t, "loads .dockerignore", slices.ContainsFunc(b.Calls(fakegateway.Solve), func(c fakegateway.Call) bool { return c.What == "local://context" }), tt.loads)
		})
	}
}

// Where nothing was ever named, one read says so for all names.
func TestNoNameIsLookedForWhereNoneIs(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	lines := ""
	for _, name := range []string{"one", "two", "three"} {
		b.Registry.Push(name, fakegateway.Image{Content: name})
		lines += "FROM " + name + "\nRUN true\n"
	}
	reads := func() (all []string) {
		for _, c := range b.Calls(fakegateway.Solve) {
			if strings.Contains(c.What, " result") {
				all = append(all, strings.TrimPrefix(c.What, "/agent localfront/v1 "))
			}
		}
		slices.Sort(all)
		return all
	}
	what := dockerfile(lines + "FROM scratch\nCOPY --from=0 / /\nCOPY --from=1 / /\nCOPY --from=2 / /\n")
	build(t, b, what)
	equal(t, "before", reads(), []string{"results"})
	build(t, b, dockerfile("FROM one\nRUN it\n", "name=two"))
	build(t, b, what)
	equal(t, "after", reads(), []string{
		"result docker.io/library/one:latest", "result docker.io/library/three:latest",
		"result docker.io/library/two:latest", "result docker.io/library/two:latest #1", "results",
	})
}

func TestDockerignoreOfTheDockerfileWins(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	what := dockerfile("FROM scratch\nCOPY . /\n")
	what.Locals["dockerfile"]["Dockerfile.dockerignore"] = "of the dockerfile\n"
	what.Locals["context"][".dockerignore"] = "of the context\n"
	build(t, b, what)
	var excludes string
	for _, c := range b.Calls(fakegateway.Solve) {
		for _, op := range ops(t, c.Definition) {
			excludes += op.GetSource().GetAttrs()["local.excludepatterns"]
		}
	}
	equal(t, "patterns", excludes, `["of the dockerfile"]`)
}

// files is a reference that knows the files of the user's machine.
type files struct {
	client.Reference
	stat  *fstypes.Stat
	err   error
	calls []string
}

func (f *files) ReadFile(_ context.Context, req client.ReadRequest) ([]byte, error) {
	f.calls = append(f.calls, "read "+req.Filename)
	return []byte("content")[:min(7, req.Range.Length)], f.err
}

func (f *files) StatFile(_ context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	f.calls = append(f.calls, "stat "+req.Path)
	if f.stat == nil {
		return nil, f.err
	}
	return f.stat, nil
}

func TestLoadedFiles(t *testing.T) {
	t.Parallel()
	missing := errors.New("no such file")
	tests := []struct {
		name  string
		files files
		calls []string
		size  int64
	}{
		{"there", files{}, []string{"read f"}, 7},
		{"missing", files{err: missing}, []string{"read f", "stat f"}, -1},
		// dockerui tells by the stat that a file is too large.
		{"too large", files{err: missing, stat: &fstypes.Stat{Size: 99}}, []string{"read f", "stat f"}, 99},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := &ahead{}
			l := &loadedFiles{Reference: &tt.files, going: &a.going, files: map[string]*loadedFile{}}
			l.read(t.Context(), "f", nil)
			size := int64(-1)
			st, err := l.StatFile(t.Context(), client.StatRequest{Path: "f"})
			if err == nil {
				size = st.Size
			}
			equal(t, "size", size, tt.size)
			dt, err := l.ReadFile(t.Context(), client.ReadRequest{Filename: "f"})
			if !errors.Is(err, tt.files.err) || err == nil && string(dt) != "content" {
				t.Errorf("read %q, %v", dt, err)
			}
			equal(t, "calls", tt.files.calls, tt.calls)
		})
	}
}

// A part of a file, or another file, is the builder's to read.
func TestLoadedFilesLeaveTheRest(t *testing.T) {
	t.Parallel()
	a := &ahead{}
	f := &files{stat: &fstypes.Stat{}}
	l := &loadedFiles{Reference: f, going: &a.going, files: map[string]*loadedFile{}}
	l.read(t.Context(), "f", nil)
	a.going.Wait()
	dt, err := l.ReadFile(t.Context(), client.ReadRequest{Filename: "f", Range: &client.FileRange{Length: 2}})
	if err != nil || string(dt) != "co" {
		t.Errorf("read %q, %v", dt, err)
	}
	if _, err := l.ReadFile(t.Context(), client.ReadRequest{Filename: "g", Range: &client.FileRange{Length: 9}}); err != nil {
		t.Error(err)
	}
	if _, err := l.StatFile(t.Context(), client.StatRequest{Path: "g"}); err != nil {
		t.Error(err)
	}
	equal(t, "calls", f.calls, []string{"read f", "read f", "read g", "stat g"})
}

func TestExpectedNames(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		opts       map[string]string
		want       []string
		some       bool // these are not all, or not without doubt
	}{
		{name: "one", text: "FROM alpine\n", want: []string{"docker.io/library/alpine:latest"}},
		{name: "a pinned one", text: "FROM alpine:3.20@sha256:" + strings.Repeat("1", 64), want: []string{alpine + "@sha256:" + strings.Repeat("1", 64)}},
		{name: "scratch", text: "FROM scratch\n"},
		{name: "a check above an instruction", text: "FROM a\n# check=skip=UndefinedVar\nENV A=$B\n", want: []string{"docker.io/library/a:latest"}},
		{name: "a variable", text: "ARG V=3\nFROM alpine:$V\n", some: true},
		{name: "stages", text: "FROM a AS one\nFROM ONE AS two\nFROM b\nCOPY --from=two / /\nCOPY --from=c / /\n", want: []string{
			"docker.io/library/b:latest", "docker.io/library/a:latest", "docker.io/library/c:latest",
		}},
		{name: "stages by number", text: "FROM a\nFROM b\nFROM c\nCOPY --from=1 / /\n", want: []string{
			"docker.io/library/c:latest", "docker.io/library/b:latest",
		}},
		{name: "a number that is no stage", text: "FROM a\nCOPY --from=7 / /\n", want: []string{"docker.io/library/a:latest"}, some: true},
		{name: "a target", text: "FROM a AS one\nFROM b\n", opts: map[string]string{"target": "one"}, want: []string{"docker.io/library/a:latest"}},
		{name: "an unknown target", text: "FROM a\n", opts: map[string]string{"target": "no"}, some: true},
		{name: "a stage later of the same name", text: "FROM a AS x\nFROM a\n", want: []string{"docker.io/library/a:latest"}},
		{name: "a named context", text: "FROM a\n", opts: map[string]string{"context:a": "local:a"}, some: true},
		{name: "broken", text: "FROM\n", some: true},
		{name: "empty", text: "", some: true},
		{name: "a mount", text: "FROM a\nRUN --mount=from=b,target=/b x\n", want: []string{"docker.io/library/a:latest"}, some: true},
		{name: "a mount of nobody's", text: "FROM a\nRUN --mount=type=cache,target=/b x\n", want: []string{"docker.io/library/a:latest"}},
		{name: "a platform", text: "FROM --platform=no a\n", want: []string{"docker.io/library/a:latest"}, some: true},
		{name: "a stage that nobody needs", text: "FROM --platform=no b\nFROM a\n", want: []string{"docker.io/library/a:latest"}, some: true},
		{name: "no name", text: "FROM A\n", some: true},
		{name: "a directive", text: "# check=no\nFROM a\n", want: []string{"docker.io/library/a:latest"}, some: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			names, all := expectedNames([]byte(tt.text), tt.opts)
			for _, n := range names {
				got = append(got, n.String())
			}
			equal(t, "names", got, tt.want)
			equal(t, "all", all, !tt.some)
		})
	}
}

const warmCalls = `
inputs 
list *.lock in . of local://dockerfile
read .dockerignore of local://context
read Dockerfile of local://dockerfile
read Dockerfile.dockerignore of local://dockerfile
read value of /agent localfront/v1 docker.io/library/alpine:3.20
read value of /agent localfront/v1 results
resolve oci-layout://docker.io/library/alpine:3.20@DIGEST linux/amd64
solve /agent localfront/v1 docker.io/library/alpine:3.20
solve /agent localfront/v1 results
solve /bin/sh -c true
solve local://context
solve local://dockerfile
solve oci-layout://docker.io/library/alpine:3.20@DIGEST
stat . of oci-layout://docker.io/library/alpine:3.20@DIGEST
stat .dockerignore of local://context
stat Dockerfile.dockerignore of local://dockerfile
`
