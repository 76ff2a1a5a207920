package testengine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A sandbox is a mount and a PID namespace for the daemons of one test. Ending
// its first process ends all others, build containers left behind by a killed
// daemon among them, and takes their mounts away.
type sandbox struct{ init *process }

func newSandbox(log io.Writer) (*sandbox, error) {
	init, err := start(exec.Command("unshare", "--mount", "--pid", "--fork",
		"--kill-child", "--mount-proc", "sleep", "infinity"), log)
	if err != nil {
		return nil, fmt.Errorf("make sandbox: %w", err)
	}
	return &sandbox{init}, nil
}

// run starts a program in the sandbox, on the host's network.
func (s *sandbox) run(log io.Writer, env []string, name string, args ...string) (*process, error) {
	enter := []string{"-t", strconv.Itoa(s.init.pid), "-m", "-p", "--", name}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.Env = env
	return start(cmd, log)
}

func (s *sandbox) close() {
	_ = syscall.Kill(s.init.pid, syscall.SIGKILL)
	<-s.init.done
}

// process is a program that another one, unshare or nsenter, has started.
type process struct {
	pid  int           // of the program itself
	done chan struct{} // closed when it has ended
	err  error         // how it ended; to be read after done
}

// start runs a command that forks once, and waits until it has. The program
// dies with the test's process, however that ends.
func start(cmd *exec.Cmd, log io.Writer) (*process, error) {
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	for {
		if pid, ok := onlyChild(cmd.Process.Pid); ok && ready(pid, cmd) {
			p.pid = pid
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s ended at once: %w", cmd, errors.Join(p.err, errEnded))
		case <-time.After(time.Millisecond):
		}
	}
}

var errEnded = errors.New("the program has ended")

func onlyChild(pid int) (int, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, false
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return child, err == nil
}

// ready says whether a forked child runs the program already: until then it is
// a copy of unshare or nsenter that may still be mounting /proc.
func ready(pid int, cmd *exec.Cmd) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && !strings.HasSuffix(exe, "/"+cmd.Args[0])
}

// stop asks a program to end, and makes it after a while.
func (p *process) stop(patience time.Duration) error {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("process %d did not end within %s of SIGTERM", p.pid, patience)
	}
}

func (p *process) kill() {
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
	<-p.done
}

// await dials a unix socket until somebody listens or the program ends.
func (p *process) await(socket string, patience time.Duration) error {
	deadline := time.After(patience)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("wait for %s: %w", socket, errors.Join(p.err, errEnded))
		case <-deadline:
			return fmt.Errorf("wait for %s: %w", socket, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
