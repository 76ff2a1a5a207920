package testengine

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
	"google.golang.org/grpc/codes"
)

// bench is a registry with a base image, and a daemon that uses it.
func bench(t *testing.T, worker Worker) (*testregistry.Registry, *Buildkitd) {
	t.Helper()
	reg := testregistry.New(t)
	img, err := testimage.Busybox("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Push("library/busybox:1", img); err != nil {
		t.Fatal(err)
	}
	return reg, StartBuildkitd(t, Config{Worker: worker, Insecure: []string{reg.Host()}})
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	for _, worker := range Workers {
		t.Run(string(worker), func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			reg, d := bench(t, worker)
			t.Logf("up in %s", time.Since(started))
			opt := BuildOpt{Dockerfile: "FROM " + reg.Ref("library/busybox:1") + "\nRUN echo once\n"}
			MustBuild(t.Context(), t, d, opt)

			d.Kill(t)
			if _, err := client.New(t.Context(), d.Addr()); err == nil {
				c := d.Client(t)
				if _, err := c.Info(t.Context()); err == nil {
					t.Error("a killed daemon answers")
				}
			}
			d.Start(t)
			res := MustBuild(t.Context(), t, d, opt)
			if v := res.Vertex("RUN echo once"); v == nil || !v.Cached {
				t.Errorf("the cache did not survive the kill:\n%s", res)
			}
			if !strings.Contains(d.Log(), "running server") {
				t.Errorf("log:\n%s", d.Log())
			}
			workers, err := d.Client(t).ListWorkers(t.Context())
			if err != nil || len(workers) != 1 {
				t.Errorf("workers = %d, %v; want 1", len(workers), err)
			}
		})
	}
}

// TestNothingIsLeft kills a daemon in the middle of a step, and looks for what
// remains after the test that did it.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for _, worker := range Workers {
		t.Run(string(worker), func(t *testing.T) {
			t.Parallel()
			var dir string
			t.Run("killed", func(t *testing.T) {
				reg, d := bench(t, worker)
				dir = d.dir
				ctx, cancel := context.WithCancel(t.Context())
				built := make(chan error, 1)
				go func() {
					_, err := Build(ctx, t, d, BuildOpt{
						Dockerfile: "FROM " + reg.Ref("library/busybox:1") + "\nRUN sleep 1234\n",
					})
					built <- err
				}()
				await.Until(t, "the step to run", func() (string, bool) {
					return d.Log(), len(processesUnder(d.dir, "1234")) > 0
				})
				d.Kill(t)
				if err := <-built; err == nil {
					t.Error("the build of a killed daemon went well")
				}
				cancel()
			})
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("state is left in %s: %v", dir, err)
			}
			if left, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupOf(dir)); len(left) > 0 {
				t.Errorf("cgroups are left: %q", left)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(mounts), dir) {
				t.Errorf("mounts are left under %s", dir)
			}
			if left := processesUnder(dir, "1234"); len(left) > 0 {
				t.Errorf("processes are left: %q", left)
			}
		})
	}
}

// processesUnder lists the command lines of processes that belong to a daemon:
// those that name its directory, and, found by a word of theirs, those in a
// mount namespace with its directory in it.
func processesUnder(dir, word string) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if !slices.Contains(args, word) {
			continue
		}
		mounts, _ := os.ReadFile(filepath.Join(p, "mountinfo"))
		if strings.Contains(string(mounts), dir) {
			found = append(found, strings.Join(args, " "))
		}
	}
	return found
}

// TestBuild has one daemon for all that only builds.
func TestBuild(t *testing.T) {
	t.Parallel()
	reg, d := bench(t, OCI)
	for name, test := range map[string]func(*testing.T, *testregistry.Registry, *Buildkitd){
		"options": buildOptions, "failed": failedBuild, "platforms": syntaxLineAndMultiPlatform,
		"off machine": offMachineIsRefused, "client": throughClient,
	} {
		t.Run(name, func(t *testing.T) { test(t, reg, d) })
	}
}

// throughClient builds with the remote driver.
func throughClient(t *testing.T, reg *testregistry.Registry, d *Buildkitd) {
	if _, err := reg.Push("library/busybox:1", variant(t, "1")); err != nil {
		t.Fatal(err)
	}
	building(t, reg, d.CLI(t))
}

func buildOptions(t *testing.T, reg *testregistry.Registry, d *Buildkitd) {
	official := PushOfficial(t, reg)
	named := t.TempDir()
	if err := os.WriteFile(filepath.Join(named, "n"), []byte("named"), 0o600); err != nil {
		t.Fatal(err)
	}
	export, dir := ExportLocal(t)
	res := MustBuild(t.Context(), t, d, BuildOpt{
		Frontend: official,
		Dockerfile: `FROM ` + reg.Ref("library/busybox:1") + ` AS run
ARG WORD
RUN --mount=type=secret,id=s cp /run/secrets/s /s && echo "said $WORD"
FROM scratch
COPY --from=run /s /s
COPY --from=more n /n
COPY dir/f /f
`,
		Files:         map[string]string{"dir/f": "file"},
		Opts:          map[string]string{"build-arg:WORD": "hello"},
		NamedContexts: map[string]string{"more": named},
		Secrets:       map[string][]byte{"s": []byte("secret")},
		Exports:       []client.ExportEntry{export},
	})
	for name, want := range map[string]string{"s": "secret", "n": "named", "f": "file"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
	if v := res.Vertex("cp /run/secrets/s"); v == nil || v.Log != "said hello\n" {
		t.Errorf("log of the step is missing:\n%s", res)
	}
}

func failedBuild(t *testing.T, reg *testregistry.Registry, d *Buildkitd) {
	res, err := Build(t.Context(), t, d, BuildOpt{
		Dockerfile: "FROM " + reg.Ref("library/busybox:1") + "\nRUN echo reason; false\nmaintainer x\n",
	})
	if err == nil || grpcerrors.Code(err) == codes.OK {
		t.Fatalf("error = %v", err)
	}
	if v := res.Vertex("echo reason"); v == nil || v.Error == "" || v.Log != "reason\n" {
		t.Errorf("progress:\n%s", res)
	}
	if len(res.Warnings) == 0 {
		t.Errorf("no warning about MAINTAINER:\n%s", res)
	}
}

func syntaxLineAndMultiPlatform(t *testing.T, reg *testregistry.Registry, d *Buildkitd) {
	official := PushOfficial(t, reg)
	idx, err := testimage.Index([]string{"linux/amd64", "linux/arm64"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Push("multi/base:1", idx); err != nil {
		t.Fatal(err)
	}
	export := ExportOCI(t)
	res := MustBuild(t.Context(), t, d, BuildOpt{
		Dockerfile: "# syntax=" + official + "\nFROM " + reg.Ref("multi/base:1") + "\nCOPY f /\n",
		Files:      map[string]string{"f": "x"},
		Opts:       map[string]string{"platform": "linux/amd64,linux/arm64"},
		Exports:    []client.ExportEntry{export.Entry},
	})
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		if got := Files(t, export.Image(t, p))["f"]; got != "x" {
			t.Errorf("%s: /f = %q", p, got)
		}
	}
	if res.Vertex("docker-image://"+official) == nil {
		t.Errorf("the syntax line was not followed:\n%s", res)
	}
}

// offMachineIsRefused proves that a forgotten reference ends on loopback.
func offMachineIsRefused(t *testing.T, _ *testregistry.Registry, d *Buildkitd) {
	_, err := Build(t.Context(), t, d, BuildOpt{Dockerfile: "FROM alpine:3.20\n"})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("error = %v, want a refused proxy", err)
	}
}

func TestMirror(t *testing.T) {
	t.Parallel()
	reg := testregistry.New(t)
	img, err := testimage.Static("linux/amd64", map[string]string{"/f": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Push("library/alpine:3.20", img); err != nil {
		t.Fatal(err)
	}
	d := StartBuildkitd(t, Config{
		Insecure: []string{reg.Host()},
		Mirrors:  map[string][]string{"docker.io": {reg.Host()}},
		Args:     []string{"--debug"},
	})
	MustBuild(t.Context(), t, d, BuildOpt{Dockerfile: "FROM alpine:3.20\nCOPY --from=alpine:3.20 /f /g\n"})
	if reg.Count(testregistry.InRepository("library/alpine")) == 0 {
		t.Error("the mirror was not asked")
	}
}

// TestRegistryBehindTokens proves that BuildKit gets along with the test
// registry's token endpoint, for pulling and for pushing.
func TestRegistryBehindTokens(t *testing.T) {
	t.Parallel()
	reg, d := bench(t, OCI)
	reg.RequireToken(true)
	res := MustBuild(t.Context(), t, d, BuildOpt{
		Dockerfile: "FROM " + reg.Ref("library/busybox:1") + "\nCOPY f /\n",
		Files:      map[string]string{"f": "x"},
		Exports: []client.ExportEntry{{
			Type:  client.ExporterImage,
			Attrs: map[string]string{"name": reg.Ref("out/app:1"), "push": "true"},
		}},
	})
	for _, repo := range []string{"library/busybox", "out/app"} {
		if reg.Count(testregistry.InRepository(repo), testregistry.OfKind(testregistry.Token)) == 0 {
			t.Errorf("no token was asked for %s:\n%s", repo, reg.Log())
		}
	}
	if got, err := reg.Digest("out/app:1"); err != nil || got != res.Digest() {
		t.Errorf("pushed %s, %v; want %s", got, err, res.Digest())
	}
}
