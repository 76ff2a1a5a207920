package tests

import (
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

// eachDriver runs a subtest on every kind of builder.
func eachDriver(t *testing.T, f func(t *testing.T, e *engine)) {
	t.Helper()
	for name, start := range drivers {
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
// client, on each kind of builder. Built once, then with the registry stopped,
// and then on a restarted daemon that must not ask it again.
func TestEveryDriver(t *testing.T) {
	t.Parallel()
	eachDriver(t, func(t *testing.T, e *engine) {
		e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM REG/alpine:3.20", "RUN echo hi > /x", "FROM scratch", "COPY --from=0 /x /")})
		build := func() string { return e.MustBuildx(t, "build", "--provenance=false", "-o", "out", ".") }
		out := build()
		t.Log(out)
		wantLine(t, out, "alpine:3.20 from registry")
		if len(e.requests()) == 0 || e.Read(t, "out/x") != "hi\n" {
			t.Errorf("requests: %q, built %q", e.requests(), e.Read(t, "out/x"))
		}

		e.reg.Stop()
		out = build()
		t.Log(out)
		wantLine(t, out, "alpine:3.20 from memory, ")
		e.restart(t)
		out = build()
		t.Log(out)
		wantLine(t, out, "alpine:3.20 from memory, ")

		if err := e.reg.Start(); err != nil {
			t.Fatal(err)
		}
		e.restart(t)
		wantLine(t, build(), "alpine:3.20 from memory, ")
		e.wantNoRequests(t)
	})
}
