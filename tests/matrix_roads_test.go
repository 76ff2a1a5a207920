package tests

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/localfront/internal/testengine"
)

// road is one way to get to localfront, or something that goes with it.
type road struct {
	scenario
	// always are the rows that it is taken on in every run of the tests.
	always []string
	// on are the rows that it is taken on with -roads, all where there are none.
	// Where a client or builder refuses to go it, that is what happens there.
	on []string
}

// everyRoad is what make test-engines says.
var everyRoad = flag.Bool("roads", false, "take every road on every row, and not only where it differs most")

var roads = []road{
	{scenario{"`docker build -f -`, `# syntax=` by tag, `--network none`", dockerBuild}, []string{"docker", "docker-20.10"}, nil},
	{scenario{"`buildx bake`: a name, then `FROM` it; `BUILDKIT_SYNTAX`", bake}, []string{"oci", "docker-container"}, buildx},
	{scenario{"`docker compose build`: a name, then `FROM` it", compose}, []string{"docker", "docker-container"}, buildx},
	{scenario{"`FROM` a name as in the complaint", complaint}, []string{"oci", "docker-container"}, []string{"oci", "docker-container"}},
	{scenario{"`buildctl build`", buildctl}, []string{"oci"}, buildkitds},
	{scenario{"`BUILDKIT_SYNTAX`, `--push`", pushed}, []string{"oci"}, kinds},
	{scenario{"git context, `-o type=local`", gitContext}, []string{"oci"}, kinds},
	{scenario{"`-o type=tar`, `-o type=cacheonly`", outputs}, []string{"oci"}, kinds},
	{scenario{"`--platform` list, `--attest`, `-o type=oci`", platformList}, []string{"docker"}, kinds},
	{scenario{"`--load`", load}, []string{"docker-container"}, dockers},
	{scenario{"`--cache-to`, `--cache-from`", caches}, []string{"docker"}, kinds},
	{scenario{"`--allow`", allow}, []string{"oci"}, kinds},
	{scenario{"`allowedRepositories`", allowedRepositories}, []string{"oci", "docker-container"}, kinds},
	{scenario{"source policy that denies", denied}, []string{"oci", "v0.12"}, kinds},
}

// refusals are what clients and builders say of roads that they do not have.
var refusals = []struct{ says, outcome string }{
	{"unknown flag: --", "not possible: this client has no such flag"},
	{"Attestation is not supported for the docker driver", "not possible: the docker driver needs the containerd image store for it"},
	{"Cache export is not supported for the docker driver", "not possible: the docker driver needs the containerd image store for it"},
	{"for multi-node builds currently not supported", "not possible: buildx has it for one node only"},
	{"unable to apply caps: operation not permitted", "not shown: it is allowed, and then wants capabilities that nobody has on the machine of these tests"},
}

// try builds, and says why a client or builder refuses to.
func (e *engine) try(t *testing.T, args ...string) (out, why string) {
	t.Helper()
	out, err := e.tryBuild(t, args...)
	if err == nil {
		return out, ""
	}
	return out, refusal(t, out, err)
}

// refusal is why a build was refused, if that is known.
func refusal(t *testing.T, out string, err error) string {
	t.Helper()
	for _, r := range refusals {
		if strings.Contains(out, r.says) {
			return r.outcome
		}
	}
	t.Fatalf("%v\n%s", err, out)
	return ""
}

// roadLines are the Dockerfile of most roads.
var roadLines = []string{"FROM REG/road:1", "COPY f /f", "RUN read r < /etc/release; echo $r > /r"}

// writeRoad writes a context whose Dockerfile begins with a syntax line, or
// with none, and has more lines at its end.
func (e *engine) writeRoad(t *testing.T, syntax string, more ...string) {
	t.Helper()
	e.base(t, "road:1", "1")
	text := strings.ReplaceAll(strings.Join(append(roadLines, more...), "\n"), "REG/", e.reg.Host()+"/") + "\n"
	if syntax != "" {
		text = "# syntax=" + syntax + "\n" + text
	}
	e.Write(t, map[string]string{"f": "x", "Dockerfile": text})
}

// answered fails unless localfront answered in a build.
func answered(t *testing.T, out string) {
	t.Helper()
	wantLine(t, out, "road:1 from ")
}

func dockerBuild(t *testing.T, e *engine) string {
	tag, _, _ := strings.Cut(e.frontend, "@")
	e.writeRoad(t, tag, `RUN while read n; do echo "net $n"; done < /proc/net/dev`)
	e.Stdin = e.Read(t, "Dockerfile")
	if err := os.Remove(filepath.Join(e.Dir, "Dockerfile")); err != nil {
		t.Fatal(err)
	}
	if !e.own {
		e.UseBuildx(t)
	}
	out, err := e.Docker(t, "build", "--network", "none", "-f", "-", ".")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	answered(t, out)
	if strings.Contains(out, "net e") || !strings.Contains(out, "net lo:") {
		t.Errorf("a step has more than loopback:\n%s", out)
	}
	return works
}

// bake bakes what has a name, and then in another run what is made from it.
func bake(t *testing.T, e *engine) string {
	e.writeNamed(t, "localhost/baked")
	e.Write(t, map[string]string{
		"foo.hcl": `target "default" {
  context = "foo"
  args = { BUILDKIT_SYNTAX = "` + e.frontend + `", LOCALFRONT_NAME = "localhost/baked" }
}`,
		"bar.hcl": `target "default" {
  context = "bar"
  output = ["out"]
}`,
	})
	e.MustBuildx(t, "bake", "-f", "foo.hcl")
	e.stopRegistry(t)
	wantLine(t, e.MustBuildx(t, "bake", "-f", "bar.hcl", "--allow=fs.write=out"), "localhost/baked:latest named result, built ")
	if got := e.Read(t, "out/f"); got != "foo's" {
		t.Errorf("baked %q", got)
	}
	return works
}

// writeNamed writes a context foo that is to get a name, and a context bar that
// is FROM it.
func (e *engine) writeNamed(t *testing.T, name string) {
	t.Helper()
	e.multi(t)
	e.Write(t, map[string]string{
		"foo/Dockerfile": "FROM " + e.reg.Ref("multi:1") + "\nCOPY f /f\n", "foo/f": "foo's",
		"bar/Dockerfile": e.dockerfile("", "FROM "+name+" AS foo", "FROM scratch", "COPY --from=foo /f /"), "bar/f": "bar's",
	})
}

// compose builds a project with a name, and then another one from it. Compose
// loads what it has built into Docker, unless it is for several platforms.
func compose(t *testing.T, e *engine) string {
	e.writeNamed(t, "composed")
	const project = "services:\n  app:\n    image: %s:1\n    build:\n      context: %[1]s\n"
	foo, bar := fmt.Sprintf(project, "foo"), fmt.Sprintf(project, "bar")
	foo += "      args: { BUILDKIT_SYNTAX: \"" + e.frontend + "\", LOCALFRONT_NAME: composed }\n"
	if e.docker == nil {
		const several = "      platforms: [linux/amd64, linux/arm64]\n"
		foo, bar = foo+several, bar+several
	}
	e.Write(t, map[string]string{"foo.yaml": foo, "bar.yaml": bar})
	out, err := e.Docker(t, "compose", "--progress=plain", "-f", "foo.yaml", "build")
	if err != nil {
		return refusal(t, out, err)
	}
	e.stopRegistry(t)
	e.reg.Reset()
	if out, err = e.Docker(t, "compose", "--progress=plain", "-f", "bar.yaml", "build"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantLine(t, out, "composed:latest named result, built ")
	e.wantNoRequests(t)
	if e.docker == nil {
		return "works; for several platforms, which stay in the builder: Compose loads a single one into Docker"
	}
	e.wantImage(t, "bar:1")
	return works
}

func buildctl(t *testing.T, e *engine) string {
	e.writeRoad(t, "")
	out, err := e.Buildctl(t, e.Buildkitd, "build", "--progress=plain", "--frontend=gateway.v0", "--opt=source="+e.frontend, "--local=context=.", "--local=dockerfile=.")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	answered(t, out)
	return works
}

func pushed(t *testing.T, e *engine) string {
	e.writeRoad(t, "")
	if e.own {
		answered(t, e.build(t, "--build-arg", "BUILDKIT_SYNTAX="+e.frontend))
		return "works; this client has no `--push`"
	}
	out, why := e.try(t, "--build-arg", "BUILDKIT_SYNTAX="+e.frontend, "--push", "-t", e.reg.Ref("pushed:1"))
	if why != "" {
		return why
	}
	answered(t, out)
	if _, err := e.reg.Digest("pushed:1"); err != nil {
		t.Error(err)
	}
	return works
}

// gitContext builds a repository, which git's own dumb server has.
func gitContext(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	const script = `git init -q . && git add . && git -c user.name=n -c user.email=e commit -qm m && git update-server-info && mv .git "$1"`
	cmd := exec.Command("sh", "-c", script, "sh", filepath.Join(e.served, "repo.git"))
	cmd.Dir = e.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e.context = e.serves + "/repo.git"
	out, why := e.try(t, "-o", "out")
	if why != "" {
		return why
	}
	answered(t, out)
	if got := e.made(t, "r"); got != "1\n" {
		t.Errorf("-o type=local has %q", got)
	}
	return works
}

func load(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	out, why := e.try(t, "--load", "-t", "loaded:1")
	if why != "" {
		return why
	}
	answered(t, out)
	e.wantImage(t, "loaded:1")
	return works
}

// wantImage fails unless Docker has an image.
func (e *engine) wantImage(t *testing.T, name string) {
	t.Helper()
	if _, err := e.docker.API(t.Context(), http.MethodGet, "/images/"+name+"/json", nil); err != nil {
		t.Error(err)
	}
}

func outputs(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	out, why := e.try(t, "-o", "type=tar,dest=fs.tar")
	if why != "" {
		return why
	}
	answered(t, out)
	if e.Read(t, "fs.tar") == "" {
		t.Error("the tar file is empty")
	}
	answered(t, e.build(t, "-o", "type=cacheonly"))
	return works
}

func platformList(t *testing.T, e *engine) string {
	e.multi(t)
	e.nodes = platforms
	e.Write(t, map[string]string{"f": "x", "Dockerfile": e.dockerfile("", "FROM REG/multi:1", "COPY f /f")})
	out, why := e.try(t, "--attest", "type=provenance,mode=max", "-o", "type=oci,dest=oci.tar")
	if why != "" {
		return why
	}
	wantLine(t, out, "multi:1 from ")
	if got := strings.Count(e.Read(t, "oci.tar"), "https://slsa.dev/provenance/"); got < len(platforms) {
		t.Errorf("the result has %d provenances", got)
	}
	return works
}

// caches fills each kind of cache, empties the builder, and builds from the
// cache. The exports are by themselves: beside a push they can hang the daemon.
// All kinds and modes are tried on one builder, since they are its code alone.
func caches(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	image, ref := e.reg.Ref("inline:1"), e.reg.Ref("cache")
	if why := e.cached(t, image, "type=inline", "-t", image, "--push"); why != "" {
		return why
	}
	more := [][2]string{{"type=local,src=max", "type=local,dest=max,mode=max"}}
	if e.row == "oci" {
		more = append(more, [][2]string{
			{"type=local,src=min", "type=local,dest=min,mode=min"},
			{"type=registry,ref=" + ref + ":min", "type=registry,mode=min,ref=" + ref + ":min"},
			{"type=registry,ref=" + ref + ":max", "type=registry,mode=max,ref=" + ref + ":max"},
		}...)
	}
	for _, kind := range more {
		if e.cached(t, kind[0], kind[1]) != "" {
			return "works; only `inline`: the docker driver needs the containerd image store for others"
		}
	}
	return works
}

// cached builds from a cache that it has filled, and says why it cannot be.
func (e *engine) cached(t *testing.T, from, to string, args ...string) string {
	t.Helper()
	if _, why := e.try(t, append(args, "--cache-to", to)...); why != "" {
		return why
	}
	e.MustBuildx(t, "prune", "-af")
	out := e.build(t, "--cache-from", from)
	answered(t, out)
	if strings.Count(out, " CACHED\n") < 2 {
		t.Errorf("%s: nothing came from the cache:\n%s", to, out)
	}
	return ""
}

func allow(t *testing.T, e *engine) string {
	e.base(t, "road:1", "1")
	e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM REG/road:1", "RUN --security=insecure true")})
	if out, err := e.tryBuild(t); err == nil || !strings.Contains(out, "security.insecure is not allowed") {
		t.Errorf("an insecure step without --allow: %v\n%s", err, out)
	}
	out, why := e.try(t, "--allow", "security.insecure")
	if why != "" {
		return why
	}
	answered(t, out)
	return works
}

// allowedRepositories: the daemon of this row allows no frontend but
// localfront, by its repository, where it can be told so. All else that is done
// on it shows that localfront is allowed, and asks for no other.
func allowedRepositories(t *testing.T, e *engine) string {
	if e.store {
		return "not possible: Docker has no such setting"
	}
	e.writeRoad(t, testengine.PushOfficial(t, e.reg))
	out, err := e.tryBuild(t)
	if err == nil {
		return "not possible: this builder has no such setting"
	}
	wantLine(t, out, "is not an allowed")
	return works
}

// denied: what is remembered does not step past a policy.
func denied(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t))
	policy, err := json.Marshal(map[string]any{"rules": []any{map[string]any{
		"action": "DENY", "selector": map[string]string{"identifier": "docker-image://" + e.reg.Ref("road:1") + "*", "matchType": "WILDCARD"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	e.Write(t, map[string]string{"policy.json": string(policy)})
	e.Env = append(e.Env[:len(e.Env):len(e.Env)], "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY="+filepath.Join(e.Dir, "policy.json"))
	out, err := e.tryBuild(t)
	if err == nil {
		return "not possible: this client or builder has no source policies"
	}
	wantLine(t, out, "denied by policy")
	return works
}

// complaint plays complaint 2: two Dockerfiles, as they are there but for the
// syntax line and the registry of alpine, and buildx as it comes.
func complaint(t *testing.T, e *engine) string {
	e.Env = nil
	e.base(t, "alpine", "1")
	e.Write(t, map[string]string{
		"Dockerfile.foo": e.dockerfile("name=foo", "FROM REG/alpine", "", "RUN touch foo"),
		"Dockerfile.bar": e.dockerfile("", "FROM foo", "", "RUN touch bar"),
	})
	built := func(name string) (string, []string) {
		out := testengine.ExportOCI(t)
		text := e.build(t, "-f", "Dockerfile."+name, "-t", name, "-o", "type=oci,dest="+out.Path())
		return text, layers(t, out.Image(t, "linux/amd64"))
	}
	_, foo := built("foo")
	e.reg.Reset()
	for range 2 { // where the registry would count requests, and without it
		out, bar := built("bar")
		wantLine(t, out, "foo:latest named result, built ")
		if step := regexp.MustCompile(`\n(#\d+) \[foo 2/2\] RUN touch foo\n`).FindStringSubmatch(out); step == nil {
			t.Errorf("foo's step is not part of bar:\n%s", out)
		} else {
			wantLine(t, out, "\n"+step[1]+" CACHED\n")
		}
		startsWith(t, bar, foo)
		e.wantNoRequests(t)
		e.stopRegistry(t)
	}
	return works
}
