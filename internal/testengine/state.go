package testengine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Daemons write and sync a lot, and nothing of it shall last. In memory that
// costs half as much, where a machine has enough of it.
const (
	memoryDir  = "/dev/shm"
	memoryFree = 8 << 30 // bytes
)

// statePrefix starts the name of every directory made here. It is short, for
// the sake of unix sockets.
const statePrefix = "lfd-"

// NewStateDir makes a directory for all that a daemon keeps: in memory where
// the machine has 8 GiB of it to spare, and among the temporary files
// otherwise. remove takes it away again.
//
// A test that is killed removes nothing. So each directory is locked for as
// long as the process that made it lives, and those that nobody has locked any
// more are removed here. The kernel gives the locks back, whatever happens.
func NewStateDir() (dir string, remove func() error, err error) {
	return newStateDir(stateParent())
}

func newStateDir(parent string) (dir string, remove func() error, err error) {
	// One at a time, so that no directory is seen before it is locked.
	gate, err := lockFile(filepath.Join(parent, statePrefix+"gate"), os.O_CREATE|os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for a daemon: %w", err)
	}
	defer gate.Close()
	removeStale(parent)
	if dir, err = os.MkdirTemp(parent, statePrefix+"*.d"); err != nil {
		return "", nil, fmt.Errorf("make a directory for a daemon: %w", err)
	}
	lock, err := lockFile(dir, os.O_RDONLY, unix.LOCK_EX)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("lock a daemon's directory: %w", err), os.Remove(dir))
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), lock.Close()) }, nil
}

// stateDir is NewStateDir for daemons, which remove theirs when they close.
func stateDir(t testing.TB) (dir string, remove func() error) {
	t.Helper()
	dir, remove, err := NewStateDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir, remove
}

// stateParent is where directories of daemons go. Memory that no program may
// be run from, as in containers, is of no use to them.
func stateParent() string {
	var fs unix.Statfs_t
	err := unix.Statfs(memoryDir, &fs)
	if err == nil && fs.Flags&unix.ST_NOEXEC == 0 && fs.Bavail*uint64(fs.Bsize) >= memoryFree && unix.Access(memoryDir, unix.W_OK) == nil {
		return memoryDir
	}
	return os.TempDir()
}

// removeStale removes what killed tests have left behind. What cannot be
// removed is tried again the next time.
func removeStale(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, statePrefix+"*.d"))
	for _, dir := range dirs {
		lock, err := lockFile(dir, os.O_RDONLY, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in use
		}
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}
}

// lockFile opens and locks a file or directory. Closing it unlocks it.
func lockFile(path string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
