package tests

import (
	"fmt"
	"net/http"
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
	{"tag that moves", movedTag},
	{"`--pull`", pull},
	{"`--call`", callVerbs},
	{"image store", imageStore},
}

// offlineRebuild is the complaint: built once, then again with the registry
// stopped, and with the registry back, each time after a restart.
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
	e.restart(t)
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

// callVerbs calls everything that can be called.
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
	verbs := map[string]string{
		"check":                "MaintainerDeprecated",
		"check,format=json":    `"ruleName": "MaintainerDeprecated"`,
		"outline":              "A ",
		"targets":              "final",
		"subrequests.describe": "List available subrequest types",
	}
	for verb, want := range verbs {
		args := []string{"build", "--call=" + verb}
		if len(e.nodes) > 0 {
			args = append(args, "--platform", e.nodes[0])
		}
		// A check that has something to say exits with 1.
		out, _ := e.Buildx(t, append(args, ".")...)
		wantLine(t, out, want)
		if strings.Contains(out, "docker/dockerfile") {
			t.Errorf("--call=%s was answered by another frontend:\n%s", verb, out)
		}
	}
	return works
}

// imageStore: what the user has built or pulled into the engine's image store
// is what FROM takes.
func imageStore(t *testing.T, e *engine) string {
	if e.store == nil {
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
	if _, err := e.store.API(t.Context(), http.MethodPost, fmt.Sprintf("/images/create?fromImage=%s&tag=1", e.reg.Ref("pulled")), nil); err != nil {
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
