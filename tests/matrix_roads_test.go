package tests

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
)

// road is one way to get to localfront, or something that goes with it, taken
// on the rows where it is another.
type road struct {
	scenario
	on []string
}

var roads = []road{
	{scenario{"`docker build`, buildx", dockerBuild}, []string{"docker"}},
	{scenario{"`buildx bake`", bake}, []string{"oci", "docker", "docker-container"}},
	{scenario{"`FROM` a name as in the complaint", complaint}, []string{"oci", "docker-container"}},
	{scenario{"`BUILDKIT_SYNTAX` and a name in `buildx bake`", bakedName}, []string{"oci"}},
	{scenario{"`buildctl build`", buildctl}, []string{"oci"}},
	{scenario{"`BUILDKIT_SYNTAX`", syntaxArg}, []string{"oci", "docker"}},
	{scenario{"`# syntax=` by tag", syntaxTag}, []string{"oci", "docker"}},
	{scenario{"`-f -`", stdin}, []string{"oci", "docker"}},
	{scenario{"git context", gitContext}, []string{"oci"}},
	{scenario{"`--load`", load}, []string{"docker", "docker-container"}},
	{scenario{"`--push`", pushed}, []string{"oci", "docker"}},
	{scenario{"`-o type=oci`, `tar`, `local`, `cacheonly`", outputs}, []string{"oci"}},
	{scenario{"`--cache-to`, `--cache-from`", caches}, []string{"oci"}},
	{scenario{"`--attest`", attest}, []string{"oci"}},
	{scenario{"`--platform` list", platformList}, []string{"oci"}},
	{scenario{"`--network none`", networkNone}, []string{"oci"}},
	{scenario{"`--allow`", allow}, []string{"oci"}},
	{scenario{"`allowedRepositories`", allowedRepositories}, []string{"oci"}},
	{scenario{"source policy that denies", denied}, []string{"oci"}},
}

// fenced is a daemon that allows insecure steps on request, and no frontends
// but localfront.
func fenced(t *testing.T, e *engine) {
	buildkitd(testengine.Config{
		Args:      []string{"--allow-insecure-entitlement", "security.insecure"},
		ExtraTOML: "[frontend.\"gateway.v0\"]\n  allowedRepositories = [\"" + e.reg.Host() + "/" + frontendRepo + "\"]\n",
	})(t, e)
}

// roadLines are the Dockerfile of most roads.
var roadLines = []string{"FROM REG/road:1", "COPY f /f", "RUN read r < /etc/release; echo $r > /r"}

// writeRoad writes a context whose Dockerfile begins with a syntax line, or
// with none.
func (e *engine) writeRoad(t *testing.T, syntax string) {
	t.Helper()
	e.base(t, "road:1", "1")
	text := strings.ReplaceAll(strings.Join(roadLines, "\n"), "REG/", e.reg.Host()+"/") + "\n"
	if syntax != "" {
		text = "# syntax=" + syntax + "\n" + text
	}
	e.Write(t, map[string]string{"f": "x", "Dockerfile": text})
}

// answered fails unless a build went well, with localfront answering.
func answered(t *testing.T, out string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantLine(t, out, "road:1 from ")
}

func dockerBuild(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	e.UseBuildx(t)
	out, err := e.Docker(t, "build", ".")
	answered(t, out, err)
	return works
}

func bake(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	e.Write(t, map[string]string{"docker-bake.hcl": `target "default" { output = ["out"] }`})
	out, err := e.Buildx(t, "bake", "--allow=fs.write=out")
	answered(t, out, err)
	if got := e.Read(t, "out/r"); got != "1\n" {
		t.Errorf("baked %q", got)
	}
	return works
}

func buildctl(t *testing.T, e *engine) string {
	e.writeRoad(t, "")
	out, err := e.Buildctl(t, e.Buildkitd, "build", "--progress=plain", "--frontend=gateway.v0", "--opt=source="+e.frontend, "--local=context=.", "--local=dockerfile=.")
	answered(t, out, err)
	return works
}

func syntaxArg(t *testing.T, e *engine) string {
	e.writeRoad(t, "")
	out := e.build(t, "--build-arg", "BUILDKIT_SYNTAX="+e.frontend)
	answered(t, out, nil)
	return works
}

func syntaxTag(t *testing.T, e *engine) string {
	tag, _, _ := strings.Cut(e.frontend, "@")
	e.writeRoad(t, tag)
	answered(t, e.build(t), nil)
	return works
}

func stdin(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	e.Stdin = e.Read(t, "Dockerfile")
	if err := os.Remove(filepath.Join(e.Dir, "Dockerfile")); err != nil {
		t.Fatal(err)
	}
	answered(t, e.build(t, "-f", "-"), nil)
	return works
}

func gitContext(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	const script = `git init -q . && git add . && git -c user.name=n -c user.email=e commit -qm m && git update-server-info`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = e.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(e.Dir)))
	defer server.Close()
	out, err := e.Buildx(t, "build", "-o", "out", server.URL+"/.git")
	answered(t, out, err)
	return works
}

func load(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t, "--load", "-t", "loaded:1"), nil)
	if _, err := e.docker.API(t.Context(), http.MethodGet, "/images/loaded:1/json", nil); err != nil {
		t.Error(err)
	}
	return works
}

func pushed(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t, "--push", "-t", e.reg.Ref("pushed:1")), nil)
	if _, err := e.reg.Digest("pushed:1"); err != nil {
		t.Error(err)
	}
	return works
}

func outputs(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	for output, file := range map[string]string{
		"type=oci,dest=oci.tar": "oci.tar", "type=tar,dest=fs.tar": "fs.tar", "type=local,dest=out": "out/r", "type=cacheonly": "",
	} {
		answered(t, e.build(t, "-o", output), nil)
		if file != "" && e.Read(t, file) == "" {
			t.Errorf("%s: %s is empty", output, file)
		}
	}
	return works
}

// caches fills each kind of cache, empties the builder, and builds from the
// cache. The exports are by themselves: beside a push they can hang the daemon.
func caches(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	ref := e.reg.Ref("cache")
	for name, c := range map[string]struct{ to, from string }{
		"local, min":    {"type=local,dest=min,mode=min", "type=local,src=min"},
		"local, max":    {"type=local,dest=max,mode=max", "type=local,src=max"},
		"registry, min": {"type=registry,mode=min,ref=" + ref + ":min", "type=registry,ref=" + ref + ":min"},
		"registry, max": {"type=registry,mode=max,ref=" + ref + ":max", "type=registry,ref=" + ref + ":max"},
	} {
		answered(t, e.build(t, "--cache-to", c.to), nil)
		e.MustBuildx(t, "prune", "-af")
		out := e.build(t, "--cache-from", c.from)
		answered(t, out, nil)
		if strings.Count(out, " CACHED\n") < 2 {
			t.Errorf("%s: nothing came from the cache:\n%s", name, out)
		}
	}
	image := e.reg.Ref("inline:1")
	answered(t, e.build(t, "--cache-to", "type=inline", "-t", image, "--push"), nil)
	e.MustBuildx(t, "prune", "-af")
	if out := e.build(t, "--cache-from", image); strings.Count(out, " CACHED\n") < 2 {
		t.Errorf("inline: nothing came from the cache:\n%s", out)
	}
	return works
}

func attest(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t, "--attest", "type=provenance,mode=max", "-o", "type=oci,dest=oci.tar"), nil)
	if !strings.Contains(e.Read(t, "oci.tar"), "https://slsa.dev/provenance/") {
		t.Error("the result has no provenance")
	}
	return works
}

func platformList(t *testing.T, e *engine) string {
	platforms := []string{"linux/amd64", "linux/arm64"}
	idx, err := testimage.Index(platforms)
	if err != nil {
		t.Fatal(err)
	}
	e.push(t, "road:multi", idx)
	e.Write(t, map[string]string{"f": "x", "Dockerfile": e.dockerfile("", "FROM REG/road:multi", "COPY f /f")})
	wantLine(t, e.build(t, "--platform", strings.Join(platforms, ","), "-o", "type=oci,dest=oci.tar"), "road:multi from ")
	return works
}

func networkNone(t *testing.T, e *engine) string {
	e.base(t, "road:1", "1")
	e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM REG/road:1", `RUN for n in /sys/class/net/*; do echo "net $n"; done`)})
	out := e.build(t, "--network", "none")
	answered(t, out, nil)
	if strings.Contains(out, "net /sys/class/net/e") || !strings.Contains(out, "net /sys/class/net/lo") {
		t.Errorf("a step has more than loopback:\n%s", out)
	}
	return works
}

func allow(t *testing.T, e *engine) string {
	e.base(t, "road:1", "1")
	e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM REG/road:1", "RUN --security=insecure true")})
	if out, err := e.tryBuild(t); err == nil || !strings.Contains(out, "security.insecure is not allowed") {
		t.Errorf("an insecure step without --allow: %v\n%s", err, out)
	}
	answered(t, e.build(t, "--allow", "security.insecure"), nil)
	return works
}

// allowedRepositories: the daemon of this row allows no frontend but
// localfront, by its repository. All else that is done on it shows that
// localfront asks for no other.
func allowedRepositories(t *testing.T, e *engine) string {
	e.writeRoad(t, testengine.PushOfficial(t, e.reg))
	if out, err := e.tryBuild(t); err == nil || !strings.Contains(out, "is not an allowed") {
		t.Errorf("another frontend: %v\n%s", err, out)
	}
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t), nil)
	return works
}

// denied: what is remembered does not step past a policy.
func denied(t *testing.T, e *engine) string {
	e.writeRoad(t, e.frontend)
	answered(t, e.build(t), nil)
	policy, err := json.Marshal(map[string]any{"rules": []any{map[string]any{
		"action": "DENY", "selector": map[string]string{"identifier": "docker-image://" + e.reg.Ref("road:1") + "*", "matchType": "WILDCARD"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	e.Write(t, map[string]string{"policy.json": string(policy)})
	e.Env = append(e.Env[:len(e.Env):len(e.Env)], "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY="+filepath.Join(e.Dir, "policy.json"))
	if out, err := e.tryBuild(t); err == nil || !strings.Contains(out, "denied by policy") {
		t.Errorf("what a policy denies: %v\n%s", err, out)
	}
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

// bakedName bakes what has a name, and then in another run what is made from it.
func bakedName(t *testing.T, e *engine) string {
	e.base(t, "road:1", "1")
	e.Write(t, map[string]string{
		"foo/Dockerfile": strings.Join([]string{"FROM " + e.reg.Ref("road:1"), "COPY f /f", ""}, "\n"), "foo/f": "foo's",
		"bar/Dockerfile": e.dockerfile("", "FROM localhost/baked AS foo", "FROM scratch", "COPY --from=foo /f /"), "bar/f": "bar's",
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
