package testengine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// cgroupOf is the parent of all cgroups that a daemon with this directory makes.
// Each has its own: in one for all daemons, containers would have no more of a
// busy machine together than any process outside has alone.
func cgroupOf(dir string) string { return "/" + filepath.Base(dir) }

// removeCgroups removes a daemon's cgroups of every hierarchy, which are empty
// by now.
func removeCgroups(parent string) error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*" + parent)
	if err != nil {
		return err
	}
	var dirs []string
	for _, top := range append(tops, "/sys/fs/cgroup"+parent) {
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // gone already is fine
		})
		if err != nil {
			return err
		}
	}
	slices.Reverse(dirs) // the deepest first
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeCgroup(dir))
	}
	return errors.Join(errs...)
}

// removeCgroup waits for the kernel to be done with a cgroup's last process.
func removeCgroup(dir string) (err error) {
	for range 3000 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}
