package testengine

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// nobody is the user and group id that a rootless daemon runs as.
const nobody = 65534

// subordinateIDs gives nobody the user and group ids that a build's steps run
// as. They are the sandbox's own: the machine's files stay as they are.
const subordinateIDs = "nobody:200000:65536\n"

// prepareRootless makes all of the daemon's files nobody's, and the sandbox a
// place where nobody can find the engines, which may be under a directory that
// is root's only, and has subordinate ids.
func (d *Buildkitd) prepareRootless() error {
	for _, sub := range []string{"run", "bin"} {
		if err := os.Mkdir(d.path(sub), 0o700); err != nil {
			return fmt.Errorf("prepare rootless buildkitd: %w", err)
		}
	}
	if err := os.WriteFile(d.path("subids"), []byte(subordinateIDs), 0o644); err != nil {
		return fmt.Errorf("prepare rootless buildkitd: %w", err)
	}
	err := filepath.WalkDir(d.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		return fmt.Errorf("prepare rootless buildkitd: %w", err)
	}
	script := `touch /etc/subuid /etc/subgid && mount --bind "$1/subids" /etc/subuid && ` +
		`mount --bind "$1/subids" /etc/subgid && mount --bind "$2" "$1/bin"`
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(d.box.init.pid), "-m", "--",
		"sh", "-c", script, "sh", d.dir, d.bin).CombinedOutput()
	if err != nil {
		return fmt.Errorf("prepare rootless buildkitd: %w: %s", err, out)
	}
	d.bin = d.path("bin")
	return nil
}

// rootless is the command in front of buildkitd's. The network is the host's,
// since everything that tests serve is on its loopback.
func (d *Buildkitd) rootless() []string {
	id := strconv.Itoa(nobody)
	return []string{
		"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--",
		"rootlesskit", "--net=host", "--state-dir", d.path("run/rootlesskit"),
	}
}
