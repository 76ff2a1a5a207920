package upstream

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/moby/buildkit/util/testutil/integration"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
)

// insideEnv says that this process is the one in the sandbox.
const insideEnv = "LOCALFRONT_UPSTREAM_INSIDE"

// mirrorEnv is where BuildKit's harness keeps the images of docker.io.
const mirrorEnv = "BUILDKIT_REGISTRY_MIRROR_DIR"

func TestMain(m *testing.M) {
	run := enter
	if os.Getenv(insideEnv) != "" {
		run = func() (int, error) { return inside(m) }
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests/upstream:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// enter runs this test binary again in mount, PID and network namespaces of its
// own. The harness starts its daemons on the bare machine and cleans up only
// after tests that end: here all of it goes with the first process, and nothing
// but loopback can be reached.
func enter() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := compileSuite(); err != nil {
		return 1, err
	}
	// The death signal is sent when the thread that forked ends.
	runtime.LockOSThread()
	cmd := exec.Command("unshare", append([]string{
		"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"tini", "--", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, self,
	}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// compileSuite is done out here, where Go modules can be had.
func compileSuite() error {
	root, err := testimage.RepoRoot()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(root, "hack", "upstream", "build.sh"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compile BuildKit's suite: %w", err)
	}
	return nil
}

// inside gives the tests the engines, a mirror folder with images, and none of
// the variables that make the harness skip.
func inside(m *testing.M) (int, error) {
	for _, name := range []string{"SKIP_INTEGRATION_TESTS", "BUILDKIT_WORKER_RANDOM", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		if err := os.Unsetenv(name); err != nil {
			return 1, err
		}
	}
	if err := findEngines(); err != nil {
		return 1, err
	}
	tmp, remove, err := testengine.NewStateDir()
	if err != nil {
		return 1, err
	}
	defer remove()
	// The harness and its daemons leave files behind.
	if err := os.Setenv("TMPDIR", tmp); err != nil {
		return 1, err
	}
	mirror := filepath.Join(tmp, "mirror")
	if err := fillMirror(mirror); err != nil {
		return 1, err
	}
	if err := os.Setenv(mirrorEnv, mirror); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// findEngines puts the engines on PATH and fails where the harness's workers
// would be without one.
func findEngines() error {
	cache, err := testimage.CacheDir()
	if err != nil {
		return err
	}
	if err := os.Setenv("PATH", filepath.Join(cache, "bin")+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	for _, name := range []string{
		"buildkitd", "buildctl", "buildkit-runc", "runc", "registry",
		"containerd", "containerd-shim-runc-v2", "git",
	} {
		if err := integration.LookupBinary(name); err != nil {
			return fmt.Errorf("%w; run make deps engines", err)
		}
	}
	return nil
}
