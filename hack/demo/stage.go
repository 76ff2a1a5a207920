package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/org/localfront/internal/standin"
	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// stage holds what one scene uses, and takes it away at the end. The engines
// are made for tests, so it stands in for one.
type stage struct {
	*standin.TB

	dir      string // the build context
	config   string // the client's configuration
	registry *testregistry.Registry
	daemon   *testengine.Buildkitd
}

// perform sets a stage, plays a scene on it and clears it again, also when the
// scene fails or ctx ends.
func perform(ctx context.Context, play func(*stage)) error {
	return standin.Run(ctx, "localfront-demo", func(t *standin.TB) {
		s := &stage{TB: t}
		s.set()
		play(s)
	})
}

// set starts a registry and a daemon that takes Docker Hub and ghcr.io to be
// there.
func (s *stage) set() {
	s.dir, s.config = s.TempDir(), s.TempDir()
	var err error
	s.registry, err = testregistry.Open()
	s.Must(err)
	s.Cleanup(s.registry.Close)
	host := s.registry.Host()
	s.daemon = testengine.StartBuildkitd(s, testengine.Config{
		Insecure: []string{host},
		Mirrors:  map[string][]string{"docker.io": {host}, "ghcr.io": {host}},
	})
	s.quietly("create", "--name", "demo", "--driver", "remote", s.daemon.Addr())
}

// push stores a busybox as alpine:3.20 whose /etc/release is release.
func (s *stage) push(release string) {
	img, err := testimage.Busybox("linux/"+hostArch, testimage.Variant(release))
	s.Must(err)
	_, err = s.registry.Push("library/alpine:3.20", img)
	s.Must(err)
}

// outcome is how a build went.
type outcome struct {
	err      error
	output   string // the CLI's
	took     time.Duration
	requests []testregistry.Request
}

// build runs a build in the CLI and shows it: the command, the lines of its
// progress that tell who answered a name, and what the registry was asked.
func (s *stage) build(args ...string) outcome {
	fmt.Printf("   $ docker build %s.\n", strings.Join(append(args, ""), " "))
	s.registry.Reset()
	args = append([]string{"build", "--builder", "demo", "--progress", "plain"}, args...)
	start := time.Now()
	out, err := s.cli(append(args, ".")...)
	o := outcome{err: err, output: out, took: time.Since(start), requests: s.registry.Requests()}
	s.Must(s.Context().Err())
	o.show()
	return o
}

var (
	progressLine = regexp.MustCompile(`^#(\d+) (.+)$`)
	// telling are the vertices worth a reader's time.
	telling = regexp.MustCompile(`^\[internal\] (load metadata|alpine|foo)|\] RUN `)
)

// show prints a build's telling lines, errors, and the count of requests.
func (o outcome) show() {
	var order []string
	names, cached := map[string]string{}, map[string]bool{}
	for line := range strings.Lines(o.output) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "ERROR: ") {
			order = append(order, line)
			names[line] = line
			continue
		}
		m := progressLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[2] == "CACHED":
			cached[m[1]] = true
		case names[m[1]] == "" && telling.MatchString(m[2]):
			order = append(order, m[1])
			names[m[1]] = m[2]
		}
	}
	for _, id := range order {
		mark := ""
		if cached[id] {
			mark = "CACHED "
		}
		fmt.Println("      " + mark + names[id])
	}
	verdict := "built"
	if o.err != nil {
		verdict = "failed"
	}
	fmt.Printf("   -> %s in %.1f s; registry requests: %d for alpine, %d for localfront itself\n",
		verdict, o.took.Seconds(), o.about("library/alpine"), o.about("org/localfront"))
}

// about counts the requests about one repository.
func (o outcome) about(repo string) int {
	n := 0
	for _, q := range o.requests {
		if testregistry.InRepository(repo)(q) {
			n++
		}
	}
	return n
}

// cli runs the command line client with a configuration of its own.
func (s *stage) cli(args ...string) (string, error) {
	cmd := exec.CommandContext(s.Context(), testengine.Bin(s, "buildx"), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+s.config, "DOCKER_CONFIG="+s.config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// quietly runs the client for something that is not part of the show.
func (s *stage) quietly(args ...string) {
	if out, err := s.cli(args...); err != nil {
		s.Fatalf("buildx %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// write makes a file of the build context.
func (s *stage) write(name, text string) {
	s.Must(os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
}

// promise ends the demo where a promise does not hold.
func (s *stage) promise(held bool, o outcome, format string, args ...any) {
	if held {
		return
	}
	var log strings.Builder
	for _, q := range o.requests {
		fmt.Fprintln(&log, "  ", q)
	}
	s.End(fmt.Errorf("broken promise: %s\nrequests:\n%soutput:\n%s", fmt.Sprintf(format, args...), &log, o.output))
}
