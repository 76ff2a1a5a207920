package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/localfront/internal/standin"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// Repositories of the frontends, whose requests are BuildKit's own.
const (
	officialRepo   = "docker/dockerfile"
	localfrontRepo = "org/localfront"
)

// bench is what one group of cases runs on: a registry that holds both
// frontends and alpine:3.20, a daemon, and the client that people use. The
// cases run on it twice, once for times and once for counts: then the
// frontends are wrapped and the daemon logs what it does.
type bench struct {
	*standin.TB

	settings settings
	counting bool
	reg      *testregistry.Registry
	daemon   *testengine.Buildkitd
	cli      *testengine.CLI
	theirs   string // the official frontend, pinned by digest
	ours     string // localfront, pinned by digest
	rows     []row
}

// measure runs the cases of a group and returns their rows.
func measure(ctx context.Context, s settings, g group) ([]row, error) {
	var timed, counted []row
	if err := onBench(ctx, s, false, func(b *bench) { g.run(b); timed = b.rows }); err != nil {
		return nil, err
	}
	if err := onBench(ctx, s, true, func(b *bench) { g.run(b); counted = b.rows }); err != nil {
		return nil, err
	}
	for i := range timed {
		timed[i].theirs.counts, timed[i].ours.counts = counted[i].theirs.counts, counted[i].ours.counts
	}
	return timed, nil
}

// onBench sets up a bench, runs what is given on it and takes it away.
func onBench(ctx context.Context, s settings, counting bool, f func(*bench)) error {
	return standin.Run(ctx, "localfront-bench", func(t *standin.TB) {
		b := &bench{TB: t, settings: s, counting: counting, reg: testregistry.New(t)}
		b.push("alpine:3.20", b.busybox("3.20"))
		if counting {
			wrapper := buildWrapper(t)
			b.theirs = b.wrap(officialRepo, testengine.Bin(t, "dockerfile-frontend"), wrapper)
			b.ours = b.wrap(localfrontRepo, testengine.LocalfrontBinary(t), wrapper)
		} else {
			b.theirs, b.ours = testengine.PushFrontends(t, b.reg)
		}
		b.startDaemon(t)
		f(b)
	})
}

// startDaemon starts a daemon that ends with t, and makes it the one that
// builds.
func (b *bench) startDaemon(t *standin.TB) {
	config := testengine.Config{Insecure: []string{b.reg.Host()}}
	if b.counting {
		config.Args = []string{"--debug"} // which logs each container
	}
	b.daemon = testengine.StartBuildkitd(t, config)
	b.cli = b.daemon.CLI(t)
}

// buildWrapper compiles what counts gateway calls.
func buildWrapper(t *standin.TB) string {
	root, err := testimage.RepoRoot()
	t.Must(err)
	binary := filepath.Join(t.TempDir(), "gatewaycount")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./bench/gatewaycount")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./bench/gatewaycount: %v\n%s", err, out)
	}
	return binary
}

// wrap pushes a frontend behind the wrapper.
func (b *bench) wrap(repo, binary, wrapper string) string {
	img, err := testimage.WrappedFrontend(binary, wrapper)
	b.Must(err)
	return b.reg.Ref(repo+":1") + "@" + b.push(repo+":1", img)
}

func (b *bench) push(name string, img v1.Image) string {
	digest, err := b.reg.Push(name, img)
	b.Must(err)
	return digest
}

// busybox is a base image that differs with text.
func (b *bench) busybox(text string) v1.Image {
	img, err := testimage.Busybox("linux/"+runtime.GOARCH, testimage.Variant(text))
	b.Must(err)
	return img
}

// project makes a folder with a Dockerfile: the syntax line, which may have
// words behind the frontend, and lines in which REG/ stands for the registry.
func (b *bench) project(syntax string, lines ...string) string {
	dir := b.TempDir()
	text := strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "REG/", b.reg.Host()+"/")
	if syntax != "" {
		text = "# syntax=" + syntax + "\n" + text
	}
	b.write(dir, "Dockerfile", text)
	b.write(dir, "app", "this is copied\n")
	return dir
}

func (b *bench) write(dir, name, text string) {
	b.Must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

// usual is the Dockerfile of most cases.
var usual = []string{"FROM REG/alpine:3.20", "COPY app /app", "RUN echo built > /built"}

// both makes one project for either frontend.
func (b *bench) both(lines ...string) (theirs, ours string) {
	return b.project(b.theirs, lines...), b.project(b.ours, lines...)
}

// building is the turn that builds a folder.
func (b *bench) building(dir string, args ...string) turn {
	return turn{run: func() { b.build(dir, args...) }}
}

// build is "docker build ARGS DIR".
func (b *bench) build(dir string, args ...string) {
	b.cli.MustBuildx(b, append(append([]string{"build"}, args...), dir)...)
}
