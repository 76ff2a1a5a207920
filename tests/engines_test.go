package tests

import (
	"net/http"
	"strings"
	"testing"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testregistry"
)

// engine is what a user has: the command line client with one kind of builder,
// and a registry that holds localfront and alpine:3.20.
type engine struct {
	*testengine.CLI
	rig
	docker *testengine.Dockerd // nil with the remote driver
}

// drivers are the kinds of builders, and how one is started.
var drivers = map[string]func(t *testing.T, insecure string) *engine{
	"docker, containerd store": func(t *testing.T, insecure string) *engine {
		return dockerDriver(t, testengine.ContainerdStore, insecure)
	},
	"docker, graph driver": func(t *testing.T, insecure string) *engine {
		return dockerDriver(t, testengine.GraphDriver, insecure)
	},
	"docker-container": func(t *testing.T, insecure string) *engine {
		d := testengine.StartDockerd(t, testengine.DockerdConfig{Insecure: []string{insecure}})
		return &engine{CLI: d.DockerContainerBuilder(t), docker: d}
	},
	"remote": func(t *testing.T, insecure string) *engine {
		d := testengine.StartBuildkitd(t, testengine.Config{Insecure: []string{insecure}})
		return &engine{CLI: d.CLI(t), rig: rig{Buildkitd: d}}
	},
}

func dockerDriver(t *testing.T, store testengine.ImageStore, insecure string) *engine {
	d := testengine.StartDockerd(t, testengine.DockerdConfig{ImageStore: store, Insecure: []string{insecure}})
	return &engine{CLI: d.CLI(t), docker: d}
}

// eachDriver runs a subtest on every kind of builder that is asked for.
func eachDriver(t *testing.T, asked string, f func(t *testing.T, e *engine)) {
	t.Helper()
	for name, start := range drivers {
		if !strings.HasPrefix(name, asked) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := testregistry.New(t)
			frontend := testengine.PushLocalfront(t, reg)
			e := start(t, reg.Host())
			e.reg, e.frontend = reg, frontend
			e.push(t, "alpine:3.20", busybox(t, "3.20"))
			f(t, e)
		})
	}
}

// restart makes the builder forget its connections, and forgets the requests.
func (e *engine) restart(t *testing.T) {
	t.Helper()
	if e.docker != nil {
		e.docker.Restart(t)
	} else {
		e.Buildkitd.Restart(t)
	}
	e.reg.Reset()
}

// wantLine fails unless the output of a build has a line with text.
func wantLine(t *testing.T, out, text string) {
	t.Helper()
	if !strings.Contains(out, text) {
		t.Errorf("no line has %q:\n%s", text, out)
	}
}

// TestEveryDriver is the complaint, as users meet it: with the command line
// client as it is, on each kind of builder. Built once, then with the registry
// stopped, also after a restart, and then with the registry back.
func TestEveryDriver(t *testing.T) {
	t.Parallel()
	eachDriver(t, "", func(t *testing.T, e *engine) {
		e.Write(t, map[string]string{
			"Dockerfile":      e.dockerfile("", "FROM REG/alpine:3.20", "RUN echo hi > /x", "FROM scratch", "COPY --from=0 /x /"),
			"docker-bake.hcl": `target "default" { output = ["out"] }`,
		})
		build := func() string { return e.MustBuildx(t, "build", "-o", "out", "--provenance=false", ".") }
		wantLine(t, build(), "registry\n")
		if len(e.requests()) == 0 || e.Read(t, "out/x") != "hi\n" {
			t.Errorf("requests: %q, built %q", e.requests(), e.Read(t, "out/x"))
		}

		e.reg.Stop()
		// What goes on from the cache has not run again.
		for range 2 {
			for _, args := range []string{"build -o out .", "build -o out --provenance=false .", "bake", "bake --set=*.args.BUILDKIT_SYNTAX=" + e.frontend} {
				out := e.MustBuildx(t, strings.Fields(args)...)
				wantLine(t, out, "alpine:3.20 from memory, ")
				if strings.Count(out, " CACHED\n") < 3 {
					t.Errorf("%s: not all steps are cached:\n%s", args, out)
				}
			}
			e.restart(t)
		}

		if err := e.reg.Start(); err != nil {
			t.Fatal(err)
		}
		e.restart(t)
		out := build()
		if e.Builder == "" {
			// With the docker driver a name may be in the image store of the
			// engine, where it changes without us, so the engine is asked first.
			wantLine(t, out, "alpine:3.20 from image store or registry")
			return
		}
		wantLine(t, out, "alpine:3.20 from memory, ")
		e.wantNoRequests(t)
	})
}

// TestImageStore: what users build and pull into the engine's image store is
// what the docker driver builds on, whatever is remembered of its name.
func TestImageStore(t *testing.T) {
	t.Parallel()
	eachDriver(t, "docker, ", func(t *testing.T, e *engine) {
		build := func(dockerfile string, args ...string) {
			t.Helper()
			e.Write(t, map[string]string{"Dockerfile": dockerfile})
			e.MustBuildx(t, append(append([]string{"build"}, args...), ".")...)
		}
		want := func(what, text string) {
			t.Helper()
			if got := e.Read(t, "out/f"); got != text+"\n" {
				t.Errorf("%s: built on %q, want %s", what, got, text)
			}
		}
		app := e.dockerfile("", "FROM base:1 AS base", "FROM scratch", "COPY --from=base /f /")
		for _, text := range []string{"one", "two", "three"} {
			build(e.dockerfile("", "FROM scratch", "COPY <<E /f", text, "E"), "-t", "base:1")
			build(app, "-o", "out")
			want("after a build", text)
		}
		build(app, "-o", "out")
		want("again", "three")

		app = e.dockerfile("", "FROM REG/alpine:3.20 AS base", "FROM scratch", "COPY --from=base /etc/release /f")
		build(app, "-o", "out")
		want("alpine", "3.20")
		e.push(t, "alpine:3.20", busybox(t, "moved"))
		if _, err := e.docker.API(t.Context(), http.MethodPost, "/images/create?tag=3.20&fromImage="+e.reg.Ref("alpine"), nil); err != nil {
			t.Fatal(err)
		}
		e.reg.Stop()
		build(app, "-o", "out")
		want("after docker pull, with the registry stopped", "moved")
	})
}
