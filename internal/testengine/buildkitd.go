package testengine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"
)

// Worker is what runs build steps and stores content for a daemon.
type Worker string

// The workers.
const (
	OCI        Worker = "oci"        // runc directly, as docker-container does
	Containerd Worker = "containerd" // a containerd that the test starts as well
)

// Workers are all workers, for subtests.
var Workers = []Worker{OCI, Containerd}

// Config says how a daemon runs. The zero value is an OCI worker.
type Config struct {
	Worker    Worker
	Release   Release             // Current when empty
	Rootless  bool                // as the user nobody, in namespaces of RootlessKit's
	Emulate   bool                // run linux/arm64 as well, with Debian's qemu
	Insecure  []string            // registries to talk plain http to, "127.0.0.1:PORT"
	Mirrors   map[string][]string // mirrors by registry: {"docker.io": {"127.0.0.1:PORT"}}
	ExtraTOML string              // the first lines of the configuration file
	Args      []string            // further command line flags, such as --debug
	Env       []string            // added to the daemon's environment, later ones win
	RootSize  string              // put Root on a file system of this size, "64m", that can be filled
}

// Release is an older engine: its folder among the engines.
type Release string

// The releases.
const (
	Current     Release = "" // what localfront is built with
	BuildKit012 Release = "buildkit-v0.12"
	Docker2010  Release = "docker-20.10" // BuildKit 0.8
)

// Buildkitd is a running or stopped daemon.
type Buildkitd struct {
	config  Config
	dir     string
	remove  func() error // takes dir away
	bin     string       // engines
	box     *sandbox
	daemon  *process // nil while stopped
	ctrd    *process // nil with the OCI worker
	logFile *os.File
}

const (
	startPatience = 30 * time.Second
	stopPatience  = time.Minute
)

// StartBuildkitd starts a daemon that ends with the test. When the test fails,
// the end of the daemon's log is in the test's.
func StartBuildkitd(t testing.TB, config Config) *Buildkitd {
	t.Helper()
	if config.Worker == "" {
		config.Worker = OCI
	}
	Bin(t, filepath.Join(string(config.Release), "buildkitd"))
	Bin(t, "buildkit-runc")
	d := &Buildkitd{config: config, bin: binDir(t)}
	d.dir, d.remove = stateDir(t)
	t.Cleanup(func() { d.close(t) })
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	if config.Worker == Containerd {
		Bin(t, "containerd")
		if err := d.startContainerd(); err != nil {
			t.Fatalf("%v\n%s", err, d.Log())
		}
	}
	d.Start(t)
	return d
}

// prepare makes the directory, the log, the configuration and the sandbox.
func (d *Buildkitd) prepare() error {
	for _, sub := range []string{"root", "tmp"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o711); err != nil {
			return fmt.Errorf("prepare buildkitd: %w", err)
		}
	}
	toml := d.config.toml() + fmt.Sprintf("[worker.%s]\n  defaultCgroupParent = %q\n", d.config.Worker, cgroupOf(d.dir))
	if err := os.WriteFile(d.path("buildkitd.toml"), []byte(toml), 0o600); err != nil {
		return fmt.Errorf("prepare buildkitd: %w", err)
	}
	if d.config.RootSize != "" {
		if err := unix.Mount("root", d.Root(), "tmpfs", 0, "size="+d.config.RootSize+",mode=711"); err != nil {
			return fmt.Errorf("prepare buildkitd: mount its root: %w", err)
		}
	}
	var err error
	if d.logFile, err = os.OpenFile(d.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("prepare buildkitd: %w", err)
	}
	if d.box, err = newSandbox(d.logFile); err != nil {
		return fmt.Errorf("prepare buildkitd: %w", err)
	}
	if d.config.Rootless {
		return d.prepareRootless()
	}
	return nil
}

func (c Config) toml() string {
	var b strings.Builder
	b.WriteString(c.ExtraTOML + "\n")
	for _, host := range c.Insecure {
		fmt.Fprintf(&b, "[registry.%q]\n  http = true\n", host)
	}
	for _, host := range slices.Sorted(maps.Keys(c.Mirrors)) {
		fmt.Fprintf(&b, "[registry.%q]\n  mirrors = [", host)
		for _, m := range c.Mirrors[host] {
			fmt.Fprintf(&b, "%q, ", m)
		}
		fmt.Fprint(&b, "]\n")
	}
	return b.String()
}

// env is all that daemons see of the environment, so that no setting of the
// machine's changes a test. The proxy is a closed port: what is not on
// loopback is refused.
func (d *Buildkitd) env() []string {
	const closed = "http://127.0.0.1:1"
	env := []string{
		"PATH=" + d.searchPath() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + d.dir,
		"TMPDIR=" + d.path("tmp"),
		"HTTP_PROXY=" + closed, "HTTPS_PROXY=" + closed,
		"http_proxy=" + closed, "https_proxy=" + closed,
		"NO_PROXY=127.0.0.1,localhost", "no_proxy=127.0.0.1,localhost",
	}
	if d.config.Rootless {
		env = append(env, "XDG_RUNTIME_DIR="+d.path("run"))
	}
	return append(env, d.config.Env...)
}

// searchPath is where daemons find each other.
func (d *Buildkitd) searchPath() string {
	path := d.bin
	if d.config.Release != Current {
		path = filepath.Join(d.bin, string(d.config.Release)) + ":" + path
	}
	if d.config.Emulate {
		path = filepath.Join(d.bin, "qemu") + ":" + path
	}
	return path
}

// program is what is run: buildkitd, or RootlessKit that runs it.
func (d *Buildkitd) program() []string {
	buildkitd := filepath.Join(d.bin, string(d.config.Release), "buildkitd")
	if d.config.Rootless {
		return append(d.rootless(), buildkitd)
	}
	return []string{buildkitd}
}

func (d *Buildkitd) args() []string {
	args := []string{"--root", d.Root(), "--addr", d.Addr(), "--config", d.path("buildkitd.toml")}
	if d.config.Release == Current {
		args = append(args, "--otel-socket-path", d.path("otel.sock"), "--cdi-disabled")
	}
	switch d.config.Worker {
	case Containerd:
		args = append(args, "--oci-worker=false", "--containerd-worker=true",
			"--containerd-worker-net=host", "--containerd-worker-addr", d.path("c.sock"))
	default:
		args = append(args, "--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host")
	}
	return append(args, d.config.Args...)
}

// Start runs a stopped daemon again, on the same root and address.
func (d *Buildkitd) Start(t testing.TB) {
	t.Helper()
	if d.daemon != nil {
		t.Fatal("buildkitd is running already")
	}
	// A killed daemon leaves its socket behind, which would look alive.
	_ = os.Remove(d.path("b.sock"))
	command := append(d.program(), d.args()...)
	p, err := d.box.run(d.logFile, d.env(), command[0], command[1:]...)
	if err != nil {
		t.Fatalf("start buildkitd: %v\n%s", err, d.Log())
	}
	if err := p.await(d.path("b.sock"), startPatience); err != nil {
		p.kill()
		t.Fatalf("start buildkitd: %v\n%s", err, d.Log())
	}
	d.daemon = p
}

// Stop ends the daemon with SIGTERM, as service managers do.
func (d *Buildkitd) Stop(t testing.TB) {
	t.Helper()
	if d.daemon == nil {
		return
	}
	err := d.daemon.stop(stopPatience)
	d.daemon = nil
	if err != nil {
		t.Fatalf("stop buildkitd: %v\n%s", err, d.Log())
	}
}

// Restart stops the daemon and starts it on the same root: nothing is lost but
// what it keeps in memory, such as its registry connections.
func (d *Buildkitd) Restart(t testing.TB) {
	t.Helper()
	d.Stop(t)
	d.Start(t)
}

// Kill ends the daemon with SIGKILL, as a crash would. Build containers go on
// until the test ends, and so does the containerd of a Containerd worker.
func (d *Buildkitd) Kill(t testing.TB) {
	t.Helper()
	if d.daemon == nil {
		t.Fatal("buildkitd is not running")
	}
	d.daemon.kill()
	d.daemon = nil
}

// Addr is the daemon's address, "unix://…".
func (d *Buildkitd) Addr() string { return "unix://" + d.path("b.sock") }

// Root is the directory of all the daemon's state.
func (d *Buildkitd) Root() string { return d.path("root") }

// Log is what the daemon, and its containerd, have logged so far.
func (d *Buildkitd) Log() string {
	data, err := os.ReadFile(d.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Client is a connection to the daemon that is closed with the test.
func (d *Buildkitd) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(context.Background(), d.Addr())
	if err != nil {
		t.Fatalf("dial buildkitd: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (d *Buildkitd) path(name string) string { return filepath.Join(d.dir, name) }

// startContainerd starts a containerd of this daemon's own, without the CRI
// plugins, which listen on a fixed port.
func (d *Buildkitd) startContainerd() error {
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
`, d.path("c/root"), d.path("c/state"), d.path("c.sock"))
	if err := os.WriteFile(d.path("containerd.toml"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	p, err := d.box.run(d.logFile, d.env(), filepath.Join(d.bin, "containerd"), "--config", d.path("containerd.toml"))
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	if err := p.await(d.path("c.sock"), startPatience); err != nil {
		p.kill()
		return fmt.Errorf("start containerd: %w", err)
	}
	d.ctrd = p
	return nil
}

// close ends everything and removes all state.
func (d *Buildkitd) close(t testing.TB) {
	t.Helper()
	if t.Failed() {
		t.Logf("buildkitd's log ends with\n%s", tail(d.Log(), 60))
	}
	for _, p := range []*process{d.daemon, d.ctrd} {
		if p == nil {
			continue
		}
		if err := p.stop(stopPatience); err != nil {
			t.Error(err)
		}
	}
	if d.box != nil {
		d.box.close()
	}
	if d.logFile != nil {
		_ = d.logFile.Close()
	}
	if d.config.RootSize != "" {
		_ = unix.Unmount(d.Root(), unix.MNT_DETACH)
	}
	if err := removeCgroups(cgroupOf(d.dir)); err != nil {
		t.Errorf("remove the daemon's cgroups: %v", err)
	}
	if err := d.remove(); err != nil {
		t.Errorf("remove the daemon's state: %v", err)
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
