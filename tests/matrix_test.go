package tests

import (
	"cmp"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// engine is what a user has: a client with one kind of builder, and a registry
// that holds localfront. The scenarios of a row share it, so each has names of
// its own.
type engine struct {
	*testengine.CLI
	rig
	restart func(t *testing.T)  // makes the builder forget its connections
	docker  *testengine.Dockerd // nil where there is only a buildkitd
	store   bool                // FROM sees docker's images
	own     bool                // Docker's client builds by itself, without buildx
	nodes   []string            // the platforms of a builder with several nodes
	row     string
	context string // what is built, the working directory when empty
	served  string // a directory, and where builders find it
	serves  string
	pushed  map[string]string // base images, by name
}

// row is one kind of builder.
type row struct {
	name   string // ENGINE of make test-engines
	what   string
	driver string
	start  func(t *testing.T, e *engine)
}

var rows = []row{
	{"oci", "buildkitd, OCI worker", "remote, buildctl", buildkitd(testengine.Config{})},
	{"containerd", "buildkitd, containerd worker", "remote", buildkitd(testengine.Config{Worker: testengine.Containerd})},
	{"rootless", "buildkitd, rootless", "remote", buildkitd(testengine.Config{Rootless: true})},
	{"v0.12", "buildkitd v0.12", "remote", buildkitd(testengine.Config{Release: testengine.BuildKit012})},
	{"nodes", "two buildkitds, amd64 and arm64", "remote", twoNodes},
	{"docker", "dockerd, containerd image store", "docker", dockerDriver(testengine.DockerdConfig{})},
	{"docker-container", "dockerd, containerd image store", "docker-container", dockerContainer(testengine.DockerdConfig{})},
	{"graph", "dockerd, graph driver", "docker", dockerDriver(testengine.DockerdConfig{ImageStore: testengine.GraphDriver})},
	{"graph-container", "dockerd, graph driver", "docker-container", dockerContainer(testengine.DockerdConfig{ImageStore: testengine.GraphDriver})},
	{"docker-20.10", "dockerd 20.10 (BuildKit 0.8), its own client", "DOCKER_BUILDKIT=1", docker2010},
	{"docker-20.10-buildx", "dockerd 20.10 (BuildKit 0.8), today's buildx", "docker", dockerDriver(testengine.DockerdConfig{Release: testengine.Docker2010})},
}

// Rows on which a road may be another one. The builder in a dockerd with a graph
// driver is the same as in the other, but for what is loaded into Docker.
var (
	buildkitds = names(func(r row) bool { return strings.HasPrefix(r.driver, "remote") })
	dockers    = names(func(r row) bool { return !slices.Contains(buildkitds, r.name) })
	buildx     = names(func(r row) bool { return r.driver != "DOCKER_BUILDKIT=1" })
	kinds      = names(func(r row) bool { return r.name != "graph-container" })
	// One of each daemon that calls may not be the same on.
	callers = []string{"oci", "v0.12", "docker-20.10-buildx"}
)

func names(which func(row) bool) []string {
	var names []string
	for _, r := range rows {
		if which(r) {
			names = append(names, r.name)
		}
	}
	return names
}

// all are the scenarios and roads of a row.
func (r row) all() []scenario {
	all := slices.Clone(scenarios)
	for _, road := range roads {
		if len(road.on) == 0 || slices.Contains(road.on, r.name) {
			all = append(all, road.scenario)
		}
	}
	return all
}

// some are those that every run of the tests plays: which roads, the same on
// all rows but for the client or the daemon, are taken where. Of a builder that
// is another row's, only what Docker's store has to do with.
func (r row) some() []scenario {
	return slices.DeleteFunc(r.all(), func(s scenario) bool {
		if !slices.Contains(kinds, r.name) {
			return s.name != "offline rebuild" && s.name != "image store"
		}
		return slices.ContainsFunc(roads, func(road road) bool {
			return road.name == s.name && !slices.Contains(road.always, r.name)
		})
	})
}

// fence allows insecure steps on request, and no frontends but localfront.
func (e *engine) fence(config testengine.Config) testengine.Config {
	config.Args = []string{"--allow-insecure-entitlement", "security.insecure"}
	config.ExtraTOML = "[frontend.\"gateway.v0\"]\n  allowedRepositories = [\"" + e.reg.Host() + "/" + frontendRepo + "\"]\n"
	config.Insecure = e.hosts()
	return config
}

// hosts are the servers that builders have to reach.
func (e *engine) hosts() []string {
	return []string{e.reg.Host(), strings.TrimPrefix(e.serves, "http://")}
}

func buildkitd(config testengine.Config) func(t *testing.T, e *engine) {
	return func(t *testing.T, e *engine) {
		e.Buildkitd = testengine.StartBuildkitd(t, e.fence(config))
		e.CLI, e.restart = e.Buildkitd.CLI(t), func(t *testing.T) { e.Restart(t) }
	}
}

// twoNodes makes one builder of two daemons, one of which runs everything
// through qemu.
func twoNodes(t *testing.T, e *engine) {
	e.nodes = platforms
	e.Buildkitd = testengine.StartBuildkitd(t, e.fence(testengine.Config{}))
	arm := testengine.StartBuildkitd(t, e.fence(testengine.Config{Emulate: true}))
	e.restart = func(t *testing.T) {
		e.Restart(t)
		arm.Restart(t)
	}
	e.CLI = e.Buildkitd.CLI(t)
	e.Builder = "nodes"
	e.MustBuildx(t, "create", "--name", e.Builder, "--driver", "remote", "--platform", e.nodes[0], e.Addr())
	e.MustBuildx(t, "create", "--append", "--name", e.Builder, "--driver", "remote", "--platform", e.nodes[1], arm.Addr())
}

func dockerd(t *testing.T, e *engine, config testengine.DockerdConfig) {
	config.Insecure, config.Builders = e.hosts(), e.fence(testengine.Config{})
	config.JSON = `{"builder": {"entitlements": {"security-insecure": true}}}`
	e.docker = testengine.StartDockerd(t, config)
	e.restart = func(t *testing.T) { e.docker.Restart(t) }
}

func dockerDriver(config testengine.DockerdConfig) func(t *testing.T, e *engine) {
	return func(t *testing.T, e *engine) {
		dockerd(t, e, config)
		e.CLI, e.store = e.docker.CLI(t), true
	}
}

func dockerContainer(config testengine.DockerdConfig) func(t *testing.T, e *engine) {
	return func(t *testing.T, e *engine) {
		dockerd(t, e, config)
		e.CLI = e.docker.DockerContainerBuilder(t)
	}
}

func docker2010(t *testing.T, e *engine) {
	dockerDriver(testengine.DockerdConfig{Release: testengine.Docker2010})(t, e)
	e.own = true
}

// TestMatrix does the same on every kind of builder. What happened there is
// docs/engines.md.
func TestMatrix(t *testing.T) {
	t.Parallel()
	page := newPage(t)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			reg := testregistry.New(t)
			e := &engine{row: r.name, served: t.TempDir(), pushed: map[string]string{}, rig: rig{reg: reg, frontend: testengine.PushLocalfront(t, reg)}}
			server := httptest.NewServer(http.FileServer(http.Dir(e.served)))
			t.Cleanup(server.Close)
			e.serves = server.URL
			r.start(t, e)
			// What buildx asks for by itself is a road of its own.
			e.Env = append(e.Env, "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
			play := r.some()
			if *everyRoad {
				play = r.all()
			}
			for _, s := range play {
				t.Run(s.name, func(t *testing.T) {
					scene := *e
					scene.CLI = e.In(t)
					page.note(t, r, s.name, s.play(t, &scene))
				})
			}
		})
	}
}

// tryBuild builds the working directory, for all of its platforms where the
// builder has several nodes.
func (e *engine) tryBuild(t *testing.T, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"build"}, args...)
	if len(e.nodes) > 0 {
		args = append(args, "--platform", strings.Join(e.nodes, ","))
	}
	args = append(args, cmp.Or(e.context, "."))
	if e.own {
		return e.Docker(t, args...)
	}
	out, err := e.Buildx(t, args...)
	// A vertex of the ledger that failed is drawn if it is ever shown again.
	if !strings.HasPrefix(e.row, "docker-20.10") && strings.Contains(out, "[internal] localfront") {
		t.Errorf("the progress shows the ledger:\n%s", out)
	}
	return out, err
}

// build is tryBuild for builds that have to succeed.
func (e *engine) build(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.tryBuild(t, args...)
	if err != nil {
		t.Fatalf("build %q: %v\n%s", args, err, out)
	}
	return out
}

// made is a file of the result in out, the same for all platforms.
func (e *engine) made(t *testing.T, name string) string {
	t.Helper()
	dirs := []string{"out/"}
	for i, p := range e.nodes {
		dirs = append(dirs[:i], "out/"+strings.ReplaceAll(p, "/", "_")+"/")
	}
	for _, dir := range dirs[1:] {
		if a, b := e.Read(t, dirs[0]+name), e.Read(t, dir+name); a != b {
			t.Errorf("%s%s has %q, %s%s has %q", dirs[0], name, a, dir, name, b)
		}
	}
	return e.Read(t, dirs[0]+name)
}

// base pushes a base image for all platforms of the builder, whose release is
// text, unless it is there.
func (e *engine) base(t *testing.T, name, text string) {
	t.Helper()
	if was := e.pushed[name]; was == text {
		return
	}
	e.pushed[name] = text
	if len(e.nodes) == 0 {
		e.push(t, name, busybox(t, text))
		return
	}
	idx, err := testimage.Index(e.nodes, testimage.Variant(text))
	if err != nil {
		t.Fatal(err)
	}
	e.push(t, name, idx)
}

// multi pushes a base image for two platforms, unless it is there.
func (e *engine) multi(t *testing.T) {
	t.Helper()
	several := *e
	several.nodes = platforms
	several.base(t, "multi:1", "multi")
}

// platforms are those of builds for several.
var platforms = []string{"linux/amd64", "linux/arm64"}

// stopRegistry takes the registry away until the scenario ends.
func (e *engine) stopRegistry(t *testing.T) {
	t.Helper()
	e.reg.Stop()
	t.Cleanup(func() {
		if err := e.reg.Start(); err != nil {
			t.Error(err)
		}
	})
}
