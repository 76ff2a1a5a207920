package testengine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ImageStore is where dockerd keeps images.
type ImageStore string

// The image stores.
const (
	ContainerdStore ImageStore = "containerd"  // the default of new installations
	GraphDriver     ImageStore = "graphdriver" // what came before, kept on upgrades
)

// ImageStores are all image stores, for subtests.
var ImageStores = []ImageStore{ContainerdStore, GraphDriver}

// DockerdConfig says how a Docker daemon runs. Registries are on the machine's
// loopback, "127.0.0.1:PORT", and are spoken to without TLS; they need to be
// listening when the daemon starts, and may be stopped later.
type DockerdConfig struct {
	ImageStore ImageStore // ContainerdStore when empty; older releases have only GraphDriver
	Release    Release    // Current when empty
	Insecure   []string   // registries that the daemon and its containers can reach
	Mirrors    []string   // registries that mirror Docker Hub; reachable as well
	JSON       string     // its configuration file; "{}" when empty
	Builders   Config     // of the docker-container builders in it: ExtraTOML and Args
	Args       []string   // further command line flags, such as --debug
	Env        []string   // added to the daemon's environment, later ones win
}

// Dockerd is a running or stopped Docker daemon. It has a network of its own,
// where the registries of its config, and nothing else of the machine, have the
// same addresses as outside.
type Dockerd struct {
	config   DockerdConfig
	dir      string
	remove   func() error // takes dir away
	bin      string       // engines
	box      *netSandbox
	daemon   *process // nil while stopped
	forwards []*forward
	logFile  *os.File
	builders int
}

// dockerdTools are what dockerd runs beside itself. Its runc is newer than the
// one that the other engines use.
var dockerdTools = []string{"dockerd", "docker-proxy", "docker-init", "docker/runc", "containerd", "containerd-shim-runc-v2"}

// olderTools are what an older dockerd has in its folder. Its runc is Debian's,
// as that of the other engines.
var olderTools = []string{"dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2"}

// StartDockerd starts a daemon that ends with the test, and its containers with
// it. When the test fails, the end of the daemon's log is in the test's.
func StartDockerd(t testing.TB, config DockerdConfig) *Dockerd {
	t.Helper()
	if config.ImageStore == "" {
		config.ImageStore = ContainerdStore
	}
	tools := dockerdTools
	if config.Release != Current {
		tools = olderTools
	}
	for _, name := range tools {
		Bin(t, filepath.Join(string(config.Release), name))
	}
	d := &Dockerd{config: config, bin: binDir(t)}
	d.dir, d.remove = stateDir(t)
	t.Cleanup(func() { d.close(t) })
	if err := d.prepare(); err != nil {
		t.Fatalf("prepare dockerd: %v", err)
	}
	d.Start(t)
	return d
}

// prepare makes the directory, the log, the sandbox and the ways out of it.
func (d *Dockerd) prepare() error {
	for _, sub := range []string{"root", "exec", "tmp"} {
		if err := os.MkdirAll(d.path(sub), 0o711); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.path("daemon.json"), []byte(cmp.Or(d.config.JSON, "{}")), 0o600); err != nil {
		return err
	}
	var err error
	if d.logFile, err = os.OpenFile(d.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	if d.box, err = newNetSandbox(d.logFile); err != nil {
		return err
	}
	addrs := slices.Concat(d.config.Insecure, d.config.Mirrors)
	slices.Sort(addrs)
	for _, addr := range slices.Compact(addrs) {
		f, err := newForward(d.box, addr)
		if err != nil {
			return err
		}
		d.forwards = append(d.forwards, f)
	}
	return nil
}

// env is all that the daemon sees of the environment; see Buildkitd.env.
func (d *Dockerd) env() []string {
	b := &Buildkitd{dir: d.dir, bin: d.bin, config: Config{Env: d.config.Env, Release: d.config.Release}}
	if d.config.Release == Current {
		b.bin = d.bin + "/docker:" + d.bin
	}
	return b.env()
}

func (d *Dockerd) args() []string {
	args := []string{
		"--config-file", d.path("daemon.json"), "--data-root", d.path("root"), "--exec-root", d.path("exec"),
		"--pidfile", d.path("pid"), "--host", d.Host(), "--cgroup-parent", d.cgroup(),
		// Nothing leaves the sandbox, and rules for that take seconds to make.
		"--iptables=false", "--ip6tables=false",
	}
	switch {
	case d.config.Release != Current:
		args = append(args, "--storage-driver", "overlay2")
	case d.config.ImageStore == GraphDriver:
		args = append(args, "--feature", "containerd-snapshotter=false", "--storage-driver", "overlay2")
	}
	for _, addr := range d.config.Insecure {
		args = append(args, "--insecure-registry", addr)
	}
	for _, addr := range d.config.Mirrors {
		args = append(args, "--registry-mirror", "http://"+addr)
	}
	return append(args, d.config.Args...)
}

// pluginLines are what containerd, and an old dockerd, log most of.
var pluginLines = regexp.MustCompile(`(?m)^.*(msg="(skip )?loading plugin|module=grpc).*\n`)

// Start runs a stopped daemon again, on the same state and address.
func (d *Dockerd) Start(t testing.TB) {
	t.Helper()
	if d.daemon != nil {
		t.Fatal("dockerd is running already")
	}
	// A killed daemon leaves its socket behind, which would look alive.
	_ = os.Remove(d.path("d.sock"))
	p, err := d.box.run(d.logFile, d.env(), filepath.Join(d.bin, string(d.config.Release), "dockerd"), d.args()...)
	if err != nil {
		t.Fatalf("start dockerd: %v\n%s", err, d.Log())
	}
	if err := p.await(d.path("d.sock"), startPatience); err != nil {
		p.kill()
		t.Fatalf("start dockerd: %v\n%s", err, d.Log())
	}
	d.daemon = p
	// The socket is there before the daemon answers.
	if _, err := d.API(t.Context(), http.MethodGet, "/_ping", nil); err != nil {
		t.Fatalf("start dockerd: %v\n%s", err, d.Log())
	}
}

// Stop ends the daemon with SIGTERM, as service managers do. Its containers are
// stopped.
func (d *Dockerd) Stop(t testing.TB) {
	t.Helper()
	if d.daemon == nil {
		return
	}
	err := d.daemon.stop(stopPatience)
	d.daemon = nil
	if err != nil {
		t.Fatalf("stop dockerd: %v\n%s", err, d.Log())
	}
}

// Restart stops the daemon and starts it on the same state. It starts its
// docker-container builders again.
func (d *Dockerd) Restart(t testing.TB) {
	t.Helper()
	d.Stop(t)
	d.Start(t)
}

// Host is the daemon's address as in DOCKER_HOST, "unix://…". It is reached
// from outside of its network.
func (d *Dockerd) Host() string { return "unix://" + d.path("d.sock") }

// Log is what the daemon, and its containerd, have logged so far.
func (d *Dockerd) Log() string {
	data, err := os.ReadFile(d.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// API calls the Engine API and returns the answer's body. A status of 400 or
// above is an error, and so is an error in a stream of progress messages.
func (d *Dockerd) API(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.path("d.sock"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return nil, fmt.Errorf("call dockerd: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call dockerd: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("call dockerd: %s %s: %w", method, path, err)
	case resp.StatusCode >= http.StatusBadRequest:
		return nil, fmt.Errorf("call dockerd: %s %s: %s: %s", method, path, resp.Status, answer)
	}
	for line := range strings.Lines(string(answer)) {
		var m struct {
			Error string `json:"error"`
		}
		if json.Unmarshal([]byte(line), &m) == nil && m.Error != "" {
			return nil, fmt.Errorf("call dockerd: %s %s: %s", method, path, m.Error)
		}
	}
	return answer, nil
}

func (d *Dockerd) path(name string) string { return filepath.Join(d.dir, name) }

// cgroup is the parent of all cgroups that the daemon makes.
func (d *Dockerd) cgroup() string { return cgroupOf(d.dir) }

// close ends everything at once and removes all state.
func (d *Dockerd) close(t testing.TB) {
	t.Helper()
	if t.Failed() {
		t.Logf("dockerd's log ends with\n%s", tail(pluginLines.ReplaceAllString(d.Log(), ""), 60))
	}
	for _, f := range d.forwards {
		f.close()
	}
	if d.box != nil {
		d.box.close()
	}
	if d.logFile != nil {
		_ = d.logFile.Close()
	}
	if err := removeCgroups(d.cgroup()); err != nil {
		t.Errorf("remove the daemon's cgroups: %v", err)
	}
	if err := d.remove(); err != nil {
		t.Errorf("remove the daemon's state: %v", err)
	}
}
