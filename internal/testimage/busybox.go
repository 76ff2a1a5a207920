package testimage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// CacheDir is where engines and foreign busyboxes are kept: $LOCALFRONT_CACHE,
// or .cache in the repository around the working directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("LOCALFRONT_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache"), nil
}

// RepoRoot is the directory of this repository's go.mod, looked for upwards
// from the working directory.
func RepoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/org/localfront\n") {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("find repository: no go.mod of localfront above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

func busyboxBinary(arch string) ([]byte, error) {
	if arch == runtime.GOARCH {
		data, err := readFirst("/bin/busybox", "/usr/bin/busybox")
		if err != nil {
			return nil, fmt.Errorf("%w; run hack/apt.sh", err)
		}
		return data, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(cache, "busybox", arch, "busybox"))
	if err != nil {
		return nil, fmt.Errorf("%w; run hack/busybox.sh %s", err, arch)
	}
	return data, nil
}

// applets are the paths of busybox's programs, "bin/sh" and so on, without
// busybox itself. Every architecture's package has the same.
var applets = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("busybox", "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets: %w; run hack/apt.sh", err)
	}
	var links []string
	for link := range strings.FieldsSeq(string(out)) {
		if filepath.Base(link) != "busybox" {
			links = append(links, link)
		}
	}
	return links, nil
})
