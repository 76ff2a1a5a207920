package testengine

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/org/localfront/internal/await"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// pushed is a registry with a base image.
func pushed(t *testing.T) *testregistry.Registry {
	t.Helper()
	reg := testregistry.New(t)
	if _, err := reg.Push("library/busybox:1", variant(t, "1")); err != nil {
		t.Fatal(err)
	}
	return reg
}

// building builds through the real client.
func building(t *testing.T, reg *testregistry.Registry, c *CLI) {
	t.Helper()
	c.Write(t, map[string]string{
		"Dockerfile":      "FROM " + reg.Ref("library/busybox:1") + " AS run\nRUN cp /etc/release /r\nFROM scratch\nCOPY --from=run /r /\n",
		"docker-bake.hcl": `target "default" { output = ["baked"] }`,
	})
	start := time.Now()
	out := c.MustBuildx(t, "build", "-o", "built", ".")
	t.Logf("built in %s", time.Since(start))
	if c.Read(t, "built/r") != "1\n" || !strings.Contains(out, "RUN cp /etc/release /r") {
		t.Errorf("built %q\n%s", c.Read(t, "built/r"), out)
	}
	c.MustBuildx(t, "bake")
	if got := c.Read(t, "baked/r"); got != "1\n" {
		t.Errorf("baked %q", got)
	}
}

// TestDocker builds on a daemon of each kind, and in one of them in a builder as
// well, after a restart; finds Docker Hub's images in a mirror; and looks for
// what remains of them all.
func TestDocker(t *testing.T) {
	t.Parallel()
	for _, store := range ImageStores {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			var d *Dockerd
			t.Run("used", func(t *testing.T) {
				reg := pushed(t)
				start := time.Now()
				d = StartDockerd(t, DockerdConfig{ImageStore: store, Mirrors: []string{reg.Host()}})
				t.Logf("up in %s", time.Since(start))
				c := d.CLI(t)
				if out := c.MustBuildx(t, "inspect"); !strings.Contains(out, "Driver: docker\n") && !strings.Contains(out, "Driver:        docker\n") {
					t.Errorf("driver:\n%s", out)
				}
				clients := []*CLI{c}
				if store == ContainerdStore {
					clients = append(clients, d.DockerContainerBuilder(t, "mirrored"))
				}
				d.Restart(t)
				for _, c := range clients {
					building(t, reg, c)
					mirrored(t, reg, c)
				}
				info, err := d.API(t.Context(), http.MethodGet, "/info", nil)
				if err != nil || strings.Contains(string(info), "io.containerd.snapshotter.v1") != (store == ContainerdStore) {
					t.Errorf("info: %v\n%s", err, info)
				}
			})
			nothingIsLeft(t, d)
		})
	}
}

func mirrored(t *testing.T, reg *testregistry.Registry, c *CLI) {
	t.Helper()
	c.Write(t, map[string]string{"Dockerfile": "FROM busybox:1\n"})
	reg.Reset()
	c.MustBuildx(t, "build", ".")
	if reg.Count(testregistry.InRepository("library/busybox")) == 0 {
		t.Error("the mirror was not asked")
	}
}

func nothingIsLeft(t *testing.T, d *Dockerd) {
	t.Helper()
	if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
		t.Errorf("state is left in %s: %v", d.dir, err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*" + d.cgroup()); len(left) > 0 {
		t.Errorf("cgroups are left: %q", left)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join(p, "mountinfo"))
		if strings.Contains(string(cmdline)+string(mounts), d.dir) {
			t.Errorf("a process is left: %q", cmdline)
		}
	}
}

// TestForward: in the sandbox a registry is there, refused, and there again, as
// it is outside.
func TestForward(t *testing.T) {
	t.Parallel()
	reg := pushed(t)
	box, err := newNetSandbox(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer box.close()
	f, err := newForward(box, reg.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	get := func() string {
		out, _ := box.output("busybox", "wget", "-qO-", "http://"+reg.Host()+"/v2/")
		return out
	}
	if got := get(); got != "{}" {
		t.Errorf("with a registry: %q", got)
	}
	reg.Stop()
	// Until the stop is noticed, connections are reset.
	await.Until(t, "the registry to be refused", func() (string, bool) {
		got := get()
		return got, strings.Contains(got, "Connection refused")
	})
	if err := reg.Start(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the registry to be back", func() (string, bool) {
		got := get()
		return got, got == "{}"
	})
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if out, err := box.output("busybox", "wget", "-qO-", "http://"+other.Addr().String()); err == nil {
		t.Errorf("another server of the machine's is reached: %s", out)
	}
}

func variant(t *testing.T, text string) v1.Image {
	t.Helper()
	img, err := testimage.Busybox("linux/amd64", testimage.Variant(text))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// output runs a program on the sandbox's network and returns what it prints.
func (s *netSandbox) output(name string, args ...string) (string, error) {
	enter := []string{"-t", strconv.Itoa(s.init.pid), "-n", "--", name}
	out, err := exec.Command("nsenter", append(enter, args...)...).CombinedOutput()
	return string(out), err
}
