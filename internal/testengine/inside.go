package testengine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a program that runs for a daemon: itself, or what a build step or
// a frontend runs.
type Process struct {
	PID  int
	Args []string // as the program was started
}

// Runs reports whether the process runs the program of that name.
func (p Process) Runs(name string) bool {
	return len(p.Args) > 0 && filepath.Base(p.Args[0]) == name
}

func (p Process) String() string { return fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " ")) }

// Kill ends the process with SIGKILL. One that has ended already is left alone.
func (p Process) Kill() { _ = syscall.Kill(p.PID, syscall.SIGKILL) }

// PeakMemory is the most memory that the process has had so far, in bytes, and
// 0 once it has ended.
func (p Process) PeakMemory() int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10
}

// Processes are the processes in the daemon's sandbox at this moment, build
// containers among them, save the daemon, its containerd and what has ended.
func (d *Buildkitd) Processes() []Process {
	own := map[int]bool{d.box.init.pid: true}
	for _, p := range []*process{d.daemon, d.ctrd} {
		if p != nil {
			own[p.pid] = true
		}
	}
	box, err := namespace(d.box.init.pid)
	if err != nil {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []Process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || own[pid] || !within(pid, box) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(data) == 0 {
			continue // ended
		}
		found = append(found, Process{PID: pid, Args: strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")})
	}
	return found
}

// namespace returns what tells the PID namespace of a process from others.
func namespace(pid int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid), &st)
	return st.Ino, err
}

// within reports whether a process is in a PID namespace or in one below it.
func within(pid int, box uint64) bool {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Ino == box {
			_ = unix.Close(fd)
			return true
		}
		parent, perr := unix.IoctlRetInt(fd, unix.NS_GET_PARENT) // fails at the caller's own
		_ = unix.Close(fd)
		fd, err = parent, perr
	}
	return false
}
