package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/internal/testengine"
)

// layers are the digests of an exported image's layers.
func layers(t *testing.T, img v1.Image) []string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range m.Layers {
		all = append(all, l.Digest.String())
	}
	return all
}

// image builds and returns the image for amd64.
func (r *rig) image(t *testing.T, opt testengine.BuildOpt) (v1.Image, *testengine.Result) {
	t.Helper()
	out := testengine.ExportOCI(t)
	opt.Exports = []client.ExportEntry{out.Entry}
	res := r.build(t, opt)
	return out.Image(t, "linux/amd64"), res
}

// wantCached fails unless every step of a named result came from the cache.
func wantCached(t *testing.T, res *testengine.Result, name string) {
	t.Helper()
	steps := 0
	for _, v := range res.Vertices {
		if strings.HasPrefix(v.Name, "["+name+" ") && !strings.Contains(v.Name, "internal]") {
			steps++
			if !v.Cached && !strings.Contains(v.Name, "] FROM ") {
				t.Errorf("%s is not cached:\n%s", v.Name, res)
			}
		}
	}
	if steps < 2 {
		t.Errorf("%d steps of %s:\n%s", steps, name, res)
	}
}

// startsWith fails unless one list of layers begins with the other.
func startsWith(t *testing.T, bar, foo []string) {
	t.Helper()
	if len(bar) <= len(foo) || !slices.Equal(bar[:len(foo)], foo) {
		t.Errorf("layers %q do not begin with %q", bar, foo)
	}
}

const uuid = "RUN cat /proc/sys/kernel/random/uuid > /uuid"

// The complaint: bar is made from foo, which this builder has just built, with
// the registry stopped, from another directory, and after a restart.
func TestNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, worker testengine.Worker) {
		r := newRig(t, testengine.Config{Worker: worker})
		r.byImage = true
		foo := testengine.BuildOpt{
			Dockerfile: r.dockerfile("name=foo", "FROM REG/alpine:3.20", "COPY . /src", uuid, `ENV A=b`, `ONBUILD RUN echo triggered`),
			Files:      map[string]string{"file": "foo's\n"}, Filename: "Dockerfile.foo",
		}
		fooImage, res := r.image(t, foo)
		if w := res.WarningText(); w != "" {
			t.Errorf("warnings: %s", w)
		}
		r.reg.Stop()
		bar := testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM foo", "RUN cat /src/file /uuid > /bar"), Files: map[string]string{"file": "bar's\n"}}
		for _, when := range []string{"at once", "after a restart"} {
			img, res := r.image(t, bar)
			line(t, res, "foo:latest named result, built ")
			wantCached(t, res, "foo")
			startsWith(t, layers(t, img), layers(t, fooImage))
			files := testengine.Files(t, img)
			if want := "foo's\n" + testengine.Files(t, fooImage)["uuid"]; files["bar"] != want {
				t.Errorf("%s: bar has %q, want %q", when, files["bar"], want)
			}
			config, err := img.ConfigFile()
			if err != nil || !slices.Contains(config.Config.Env, "A=b") {
				t.Errorf("config %+v, %v", config, err)
			}
			r.cold(t)
		}
		r.wantNoRequests(t)
		// Nothing is written, and no container starts, when nothing changed.
		res = r.build(t, foo)
		for _, v := range res.Vertices {
			if v.Completed != nil && !v.Cached && (strings.Contains(v.Name, "ledger") || strings.Contains(v.Name, "keep") || strings.Contains(v.Name, "take")) {
				t.Errorf("%s ran in an unchanged build:\n%s", v.Name, res)
			}
		}
		t.Run("names", func(t *testing.T) { r.names(t) })
		t.Run("pruned", func(t *testing.T) { r.prunedNames(t, bar) })
	})
}

func (r *rig) names(t *testing.T) {
	cli := r.CLI(t)
	cli.Write(t, map[string]string{"Dockerfile": r.dockerfile("", "FROM scratch")})
	out := cli.MustBuildx(t, "build", "--call=names", ".")
	wantLine(t, out, "foo   linux/amd64  ")
	wantLine(t, out, "Dockerfile.foo")
	wantLine(t, cli.MustBuildx(t, "build", "--call=names,format=json", "."), `"name": "foo"`)
	out = cli.MustBuildx(t, "build", "--call=subrequests.describe", ".")
	for _, verb := range []string{"outline", "targets", "lint", "subrequests.describe", "names"} {
		wantLine(t, out, "\n"+verb+" ")
	}
}

func (r *rig) prunedNames(t *testing.T, bar testengine.BuildOpt) {
	if err := errors.Join(r.reg.Start(), r.Client(t).Prune(t.Context(), nil, client.PruneAll)); err != nil {
		t.Fatal(err)
	}
	_, err := r.tryBuild(t, bar)
	wantError(t, err, "library/foo", "no build on this builder was named foo: name one with name=foo")
	_, err = r.tryBuild(t, testengine.BuildOpt{Dockerfile: r.dockerfile("", "FROM localhost/foo")})
	wantError(t, err, "localhost/foo:latest is not known on this builder", "this builder has no named results")
}

// span is the time that a build took, by a counter that each start and end moves
// on.
type span struct{ start, end int }

// spans are the builds of one name by what they put into the image.
type spans struct {
	mu    sync.Mutex
	clock int
	all   map[string]map[string]span
}

func (s *spans) tick() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	return s.clock
}

func (s *spans) add(name, value string, took span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[name] == nil {
		s.all[name] = map[string]span{}
	}
	s.all[name][value] = took
}

// old returns a build of name that began after that of value had ended, and
// ended before the given time: whoever began to read then must not get value.
func (s *spans) old(name, value string, at int) (newer string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, ended := s.all[name][value]
	if !ended {
		return "", false
	}
	for other, took := range s.all[name] {
		if took.start > was.end && took.end < at {
			return other, true
		}
	}
	return "", false
}

// Builds of five names at once, readers beside them, some of them before the
// name was ever recorded, and a build that reads a name at its start and runs
// until all others have ended: a reader gets a whole result, and none that was
// replaced before it began.
func TestNamedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{})
	s := &spans{all: map[string]map[string]span{}}
	record := func(name, value string) error {
		took := span{start: s.tick()}
		res, err := r.tryBuild(t, testengine.BuildOpt{Dockerfile: r.dockerfile("name="+name, "FROM REG/alpine:3.20", "RUN echo "+value+" > /v")})
		if err != nil {
			return fmt.Errorf("%w\n%s", err, res)
		}
		if w := res.WarningText(); strings.Contains(w, "is not recorded") {
			return errors.New(w)
		}
		took.end = s.tick()
		s.add(name, value, took)
		return nil
	}
	read := func(name string) error {
		at := s.tick()
		out, dir := testengine.ExportLocal(t)
		_, err := r.tryBuild(t, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM scratch", "COPY --from="+name+" /v /"), Exports: []client.ExportEntry{out},
		})
		if err != nil && strings.Contains(err.Error(), "is not known on this builder") {
			s.mu.Lock()
			defer s.mu.Unlock()
			for value, took := range s.all[name] {
				if took.end < at {
					return fmt.Errorf("%s is not known, and %s was recorded: %w", name, value, err)
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
		dt, err := os.ReadFile(filepath.Join(dir, "v"))
		if newer, ok := s.old(name, strings.TrimSpace(string(dt)), at); ok {
			return fmt.Errorf("%s is %q, and %q was recorded", name, dt, newer)
		}
		return err
	}
	name := func(i int) string { return fmt.Sprint("localhost/n", i%5) }
	if err := record(name(0), "first"); err != nil {
		t.Fatal(err)
	}
	end := r.longBuild(t, name(0))
	eg, readers := errgroup.Group{}, errgroup.Group{}
	eg.SetLimit(5)
	readers.SetLimit(3)
	for i := range 8 {
		eg.Go(func() error { return record(name(i), fmt.Sprint("v", i)) })
		readers.Go(func() error { return read(name(i)) })
	}
	if err := errors.Join(eg.Wait(), readers.Wait()); err != nil {
		t.Error(err)
	}
	for i := range 5 {
		if err := read(name(i)); err != nil {
			t.Errorf("at the end: %v", err)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	for i := range 5 {
		if err := read(name(i)); err != nil {
			t.Errorf("when all have ended: %v", err)
		}
	}
}

// longBuild starts a build from a name that runs until it is ended.
func (r *rig) longBuild(t *testing.T, name string) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	running, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		_, err := testengine.Build(ctx, t, r.Buildkitd, testengine.BuildOpt{
			Dockerfile: r.dockerfile("", "FROM "+name, "RUN echo long; sleep 3600"),
			Watch: func(st *client.SolveStatus) {
				for _, l := range st.Logs {
					if strings.Contains(string(l.Data), "long") {
						once.Do(func() { close(running) })
					}
				}
			},
		})
		ended <- err
	}()
	select {
	case <-running:
	case err := <-ended:
		t.Fatalf("the long build ended: %v", err)
	}
	return func() error {
		select {
		case err := <-ended:
			return fmt.Errorf("the long build ended by itself: %w", err)
		default:
		}
		cancel()
		<-ended
		return nil
	}
}
