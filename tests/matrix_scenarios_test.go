package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// scenario is what is done on every kind of builder. It fails where something
// goes wrong, and returns what happens where nothing does: "works", what is
// done in its place, or why it is not possible.
type scenario struct {
	name string
	play func(t *testing.T, e *engine) string
}

const works = "works"

var scenarios = []scenario{
	{"offline rebuild", offlineRebuild},
	{"named result", namedResult},
	{"locked build", lockedBuild},
	{"tag that moves", movedTag},
	{"`--pull`", pull},
	{"`--call`", callVerbs},
	{"image store", imageStore},
}

// offlineRebuild is the complaint: built once, then after a restart again with
// the registry stopped, and with the registry back.
func offlineRebuild(t *testing.T, e *engine) string {
	e.base(t, "offline:1", "1")
	e.Write(t, map[string]string{
		"f":          "x",
		"Dockerfile": e.dockerfile("", "FROM REG/offline:1", "RUN read r < /etc/release; echo $r > /r", "FROM scratch", "COPY --from=0 /r /", "COPY f /"),
	})
	wantLine(t, e.build(t, "-o", "out"), "registry\n")
	e.reg.Stop()
	e.restart(t)
	out := e.build(t, "-o", "out")
	if got := e.made(t, "r"); got != "1\n" {
		t.Errorf("built %q", got)
	}
	if strings.Count(out, " CACHED\n") < 3 {
		t.Errorf("not all steps are cached:\n%s", out)
	}
	wantLine(t, out, "offline:1 from memory, ")
	if err := e.reg.Start(); err != nil {
		t.Fatal(err)
	}
	e.reg.Reset()
	out = e.build(t, "-o", "out")
	switch {
	case strings.Contains(out, "offline:1 from image store or registry"):
		return "works; where it can be reached, the engine is asked first"
	case len(e.requests()) > 0:
		t.Errorf("with the registry back, it was asked: %q\n%s", e.requests(), out)
	}
	return works
}

// namedResult builds something under a name, and then FROM that name without a
// registry.
func namedResult(t *testing.T, e *engine) string {
	e.base(t, "under:1", "1")
	e.Write(t, map[string]string{
		"f":          "mine",
		"Dockerfile": e.dockerfile("", "FROM REG/under:1", "COPY f /f", "RUN read r < /etc/release; echo $r > /etc/release"),
	})
	e.build(t, "--build-arg", "LOCALFRONT_NAME=foo")
	e.stopRegistry(t)
	other := *e
	other.CLI = e.In(t)
	other.Write(t, map[string]string{
		"f":          "other",
		"Dockerfile": e.dockerfile("", "FROM foo AS foo", "FROM scratch", "COPY --from=foo /f /etc/release /"),
	})
	out := other.build(t, "-o", "out")
	wantLine(t, out, "foo:latest named result, built ")
	if f, r := other.made(t, "f"), other.made(t, "release"); f != "mine" || r != "1\n" {
		t.Errorf("FROM foo has %q and %q", f, r)
	}
	return works
}

// lockedBuild writes a lock, and builds by it when the tag has moved on.
func lockedBuild(t *testing.T, e *engine) string {
	e.base(t, "locked:1", "old")
	text := e.dockerfile("", "FROM REG/locked:1 AS base", "FROM scratch", "COPY --from=base /etc/release /r")
	e.Write(t, map[string]string{"Dockerfile": text})
	locked := []string{"--build-arg", "LOCALFRONT_LOCKED=1", "-o", "out"}
	if out, err := e.tryBuild(t, locked...); err == nil || !strings.Contains(out, "LOCALFRONT_LOCK=") {
		t.Errorf("locked without a lock: %v\n%s", err, out)
	}
	one := *e
	one.nodes = nil // the lock is of the build, not of one platform
	args := []string{"--build-arg", "LOCALFRONT_LOCK=update", "-o", "."}
	if len(e.nodes) > 0 {
		args = append(args, "--platform", e.nodes[0])
	}
	one.build(t, args...)
	if got := e.Read(t, "Dockerfile.lock"); !strings.Contains(got, e.reg.Ref("locked:1")) {
		t.Errorf("the lock has no locked:1:\n%s", got)
	}
	e.base(t, "locked:1", "new")
	wantLine(t, e.build(t, locked...), "locked:1 from Dockerfile.lock")
	if got := e.made(t, "r"); got != "old\n" {
		t.Errorf("built on %q, want what is locked", got)
	}
	return works
}

// release builds what prints the release of a base image.
func (e *engine) release(t *testing.T, base string, args ...string) string {
	t.Helper()
	e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM "+base+" AS base", "FROM scratch", "COPY --from=base /etc/release /r")})
	e.build(t, append(args, "-o", "out")...)
	return strings.TrimSpace(e.made(t, "r"))
}

// movedTag: a tag that has moved is what it was, unless the engine has an image
// store, where images change without us.
func movedTag(t *testing.T, e *engine) string {
	e.base(t, "moved:1", "old")
	if got := e.release(t, "REG/moved:1"); got != "old" {
		t.Fatalf("first built on %q", got)
	}
	e.base(t, "moved:1", "new")
	switch got := e.release(t, "REG/moved:1"); got {
	case "old":
		return "remembered"
	case "new":
		if e.Builder != "" {
			t.Error("memory was not asked first")
		}
		return "seen at once: the engine is asked first"
	default:
		t.Errorf("built on %q", got)
		return ""
	}
}

// pull: --pull takes what the registry has, and it is remembered.
func pull(t *testing.T, e *engine) string {
	e.base(t, "pull:1", "old")
	e.release(t, "REG/pull:1")
	e.base(t, "pull:1", "new")
	if got := e.release(t, "REG/pull:1", "--pull"); got != "new" {
		t.Errorf("--pull built on %q", got)
	}
	e.stopRegistry(t)
	if got := e.release(t, "REG/pull:1"); got != "new" {
		t.Errorf("after --pull, built on %q", got)
	}
	return works
}

// callVerbs calls everything that can be called, or on rows that are like others
// what is localfront's own.
func callVerbs(t *testing.T, e *engine) string {
	if e.own {
		out, err := e.Docker(t, "build", "--call=check", ".")
		if err == nil || !strings.Contains(out, "unknown flag: --call") {
			t.Errorf("--call: %v\n%s", err, out)
		}
		return "not possible: this client has no `--call`"
	}
	e.base(t, "call:1", "1")
	e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM REG/call:1 AS final", "ARG A=1", "maintainer me")})
	call := func(verb string) string {
		args := []string{"build", "--call=" + verb}
		if len(e.nodes) > 0 {
			args = append(args, "--platform", e.nodes[0])
		}
		// A check that has something to say exits with 1.
		out, _ := e.Buildx(t, append(args, ".")...)
		if strings.Contains(out, "docker/dockerfile") || strings.Contains(out, "\nERROR: ") {
			t.Errorf("--call=%s was answered by another frontend, or not at all:\n%s", verb, out)
		}
		return out
	}
	says := map[string]string{"frontend.lint": "MaintainerDeprecated", "frontend.outline": "A ", "frontend.targets": "final", "frontend.names": ""}
	all := *everyRoad || slices.Contains(callers, e.row)
	for _, verb := range verbs(t, call("subrequests.describe,format=json")) {
		if _, some := says[verb]; !some && !all {
			continue
		}
		// buildx has a name of its own for lint.
		out := call(strings.Replace(strings.TrimPrefix(verb, "frontend."), "lint", "check", 1))
		wantLine(t, out, says[verb])
		delete(says, verb)
	}
	if len(says) > 0 {
		t.Errorf("not in the list of verbs: %q", says)
	}
	return works
}

// verbs are the names in the list of subrequests that a client prints after the
// progress.
func verbs(t *testing.T, out string) []string {
	t.Helper()
	_, list, _ := strings.Cut(out, "\n[\n")
	var all []struct {
		Name string `json:"name"`
	}
	if err := json.NewDecoder(strings.NewReader("[" + list)).Decode(&all); err != nil {
		t.Fatalf("the list of verbs: %v\n%s", err, out)
	}
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
	}
	return names
}

// imageStore: what the user has built or pulled into the engine's image store
// is what FROM takes.
func imageStore(t *testing.T, e *engine) string {
	if !e.store {
		return "not possible: this driver has no image store; a build can be named instead"
	}
	for _, text := range []string{"one", "two"} {
		e.Write(t, map[string]string{"Dockerfile": e.dockerfile("", "FROM scratch", "COPY f /etc/release"), "f": text})
		e.build(t, "-t", "mine:1")
		if got := e.release(t, "mine:1"); got != text {
			t.Errorf("after docker build -t: built on %q, want %s", got, text)
		}
	}
	e.base(t, "pulled:1", "old")
	if got := e.release(t, "REG/pulled:1"); got != "old" {
		t.Errorf("built on %q", got)
	}
	e.base(t, "pulled:1", "new")
	if _, err := e.docker.API(t.Context(), http.MethodPost, fmt.Sprintf("/images/create?fromImage=%s&tag=1", e.reg.Ref("pulled")), nil); err != nil {
		t.Fatal(err)
	}
	e.stopRegistry(t)
	if got := e.release(t, "REG/pulled:1"); got != "new" {
		t.Errorf("after docker pull, with the registry stopped: built on %q", got)
	}
	return works
}

// wantLine fails unless the output of a build has text.
func wantLine(t *testing.T, out, text string) {
	t.Helper()
	if !strings.Contains(out, text) {
		t.Errorf("no line has %q:\n%s", text, out)
	}
}
