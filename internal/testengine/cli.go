package testengine

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// CLI is the buildx command line client with a configuration of its own, as a
// user of one engine has it. It runs outside of the engine's sandbox.
type CLI struct {
	Host    string   // DOCKER_HOST
	Builder string   // BUILDX_BUILDER; when empty, the docker driver
	Dir     string   // working directory
	Env     []string // added to its environment, later ones win
	Stdin   string

	bin    string
	config string // configuration of buildx and docker
}

// NewCLI makes a client for a Docker host such as Dockerd.Host, in an empty
// working directory.
func NewCLI(t testing.TB, host string) *CLI {
	t.Helper()
	return &CLI{Host: host, Dir: t.TempDir(), bin: Bin(t, "buildx"), config: t.TempDir()}
}

// CLI makes a client that builds with the docker driver.
func (d *Dockerd) CLI(t testing.TB) *CLI {
	t.Helper()
	return NewCLI(t, d.Host())
}

// CLI makes a client that builds with the remote driver.
func (d *Buildkitd) CLI(t testing.TB) *CLI {
	t.Helper()
	// There is no Docker daemon, and none of the machine's may be found.
	c := NewCLI(t, "unix://"+filepath.Join(t.TempDir(), "none"))
	c.MustBuildx(t, "create", "--name", "remote", "--driver", "remote", d.Addr())
	c.Builder = "remote"
	return c
}

// Buildx runs a command, "build" or "bake" with what follows it, and returns
// its output, stdout and stderr as they came. Progress is plain.
func (c *CLI) Buildx(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return c.BuildxContext(t.Context(), args...)
}

// BuildxContext is Buildx that is killed when the context ends.
func (c *CLI) BuildxContext(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, c.bin, args...)
}

// Docker runs a command of Docker's own client, such as "build". It is that of
// release 20.10, since newer ones do not build here, and so it builds by
// itself; "buildx" and "compose" are today's, as its plugins.
func (c *CLI) Docker(t testing.TB, args ...string) (string, error) {
	t.Helper()
	plugins := filepath.Join(c.config, "cli-plugins")
	if err := os.MkdirAll(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"buildx", "docker-compose"} {
		link := filepath.Join(plugins, "docker-"+strings.TrimPrefix(name, "docker-"))
		if err := os.Symlink(Bin(t, name), link); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	return c.run(t.Context(), Bin(t, filepath.Join(string(Docker2010), "docker")), args...)
}

// UseBuildx lets Docker build with the plugin, as "docker buildx install" does.
func (c *CLI) UseBuildx(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.config, "config.json"), []byte(`{"aliases":{"builder":"buildx"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Buildctl runs BuildKit's own client on a daemon.
func (c *CLI) Buildctl(t testing.TB, d *Buildkitd, args ...string) (string, error) {
	t.Helper()
	return c.run(t.Context(), Bin(t, "buildctl"), append([]string{"--addr", d.Addr()}, args...)...)
}

// In returns the same client in an empty working directory of its own.
func (c *CLI) In(t testing.TB) *CLI {
	t.Helper()
	other := *c
	other.Dir = t.TempDir()
	return &other
}

// run runs a client, and again where the daemon was too busy for its build.
func (c *CLI) run(ctx context.Context, name string, args ...string) (string, error) {
	for {
		start := time.Now()
		out, err := c.runOnce(ctx, name, args...)
		if err == nil || ctx.Err() != nil || !TooBusy(start, out) {
			return out, err
		}
	}
}

func (c *CLI) runOnce(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = c.Dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.config, "TMPDIR=" + os.TempDir(),
		"DOCKER_HOST=" + c.Host, "DOCKER_CONFIG=" + c.config, "BUILDX_CONFIG=" + filepath.Join(c.config, "buildx"),
		"BUILDX_BUILDER=" + c.Builder, "BUILDKIT_PROGRESS=plain", "DOCKER_BUILDKIT=1",
		// Metadata files and git labels depend on where the tests run.
		"BUILDX_GIT_INFO=false",
	}, c.Env...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// MustBuildx is Buildx for commands that have to succeed.
func (c *CLI) MustBuildx(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.Buildx(t, args...)
	if err != nil {
		t.Fatalf("buildx %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Write makes files of the working directory, by relative path.
func (c *CLI) Write(t testing.TB, files map[string]string) {
	t.Helper()
	if err := writeFiles(c.Dir, files); err != nil {
		t.Fatal(err)
	}
}

// Read is a file of the working directory, such as one that a build has made.
func (c *CLI) Read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
