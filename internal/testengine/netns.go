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
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A netSandbox is a sandbox with a network of its own as well, in which there
// is nothing but loopback, and with an empty /run. The network has no name: it
// ends with the sandbox's processes.
type netSandbox struct{ sandbox }

func newNetSandbox(log io.Writer) (*netSandbox, error) {
	init, err := start(exec.Command("unshare", "--net", "--mount", "--pid", "--fork",
		"--kill-child", "--mount-proc", "sleep", "infinity"), log)
	if err != nil {
		return nil, fmt.Errorf("make sandbox: %w", err)
	}
	s := &netSandbox{sandbox{init}}
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(init.pid), "-n", "-m", "--",
		"sh", "-c", "ip link set lo up && mount -t tmpfs run /run").CombinedOutput()
	if err != nil {
		s.close()
		return nil, fmt.Errorf("make sandbox: %w: %s", err, out)
	}
	return s, nil
}

// run starts a program in the sandbox, on its own network.
func (s *netSandbox) run(log io.Writer, env []string, name string, args ...string) (*process, error) {
	enter := []string{"-t", strconv.Itoa(s.init.pid), "-n", "-m", "-p", "--", name}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.Env = env
	return start(cmd, log)
}

// listen listens on the sandbox's network, from outside of it.
func (s *netSandbox) listen(addr string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread that has changed its network is of no use to anybody else:
		// it ends with this goroutine, since nothing unlocks it.
		runtime.LockOSThread()
		var ns *os.File
		if ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", s.init.pid)); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		l, err = net.Listen("tcp", addr)
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the sandbox: %w", addr, err)
	}
	return l, nil
}

// A forward makes a server on the machine's loopback reachable under the same
// address in a sandbox. While the server is stopped, dials are refused there
// as well.
type forward struct {
	box  *netSandbox
	addr string
	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil when closed
}

const followPause = 10 * time.Millisecond

// newForward returns when the address can be dialled in the sandbox, unless the
// server is stopped.
func newForward(box *netSandbox, addr string) (*forward, error) {
	f := &forward{box: box, addr: addr, stop: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	first := make(chan error, 1)
	f.done.Go(func() {
		for {
			f.follow(first)
			select {
			case <-f.stop:
				return
			case <-time.After(followPause):
			}
		}
	})
	if err := <-first; err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// follow listens for as long as the server does. What it tells that by is a
// connection that is kept idle: servers close theirs when they stop.
func (f *forward) follow(first chan error) {
	tell := func(err error) {
		select {
		case first <- err:
		default:
		}
	}
	canary, err := net.Dial("tcp", f.addr)
	if err != nil {
		tell(nil)
		return
	}
	if !f.keep(canary) {
		return
	}
	defer f.drop(canary)
	l, err := f.box.listen(f.addr)
	tell(err)
	if err != nil {
		return
	}
	f.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.done.Go(func() { f.pipe(conn) })
		}
	})
	_, _ = io.Copy(io.Discard, canary)
	_ = l.Close()
}

// pipe carries one connection to the server.
func (f *forward) pipe(conn net.Conn) {
	if !f.keep(conn) {
		return
	}
	defer f.drop(conn)
	target, err := net.Dial("tcp", f.addr)
	if err != nil {
		_ = conn.(*net.TCPConn).SetLinger(0) // the nearest to refusing it
		return
	}
	if !f.keep(target) {
		return
	}
	defer f.drop(target)
	var both sync.WaitGroup
	for _, c := range [][2]net.Conn{{conn, target}, {target, conn}} {
		both.Go(func() {
			_, err := io.Copy(c[0], c[1])
			if err != nil && !errors.Is(err, io.EOF) {
				_ = c[0].Close()
				return
			}
			_ = c[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}

// keep notes a connection to be closed with the forward, or closes it if that
// has happened already.
func (f *forward) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		_ = c.Close()
		return false
	}
	f.conns[c] = struct{}{}
	return true
}

func (f *forward) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = c.Close()
	delete(f.conns, c)
}

func (f *forward) close() {
	close(f.stop)
	f.mu.Lock()
	for c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.done.Wait()
}
