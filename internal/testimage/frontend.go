package testimage

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FrontendLabels are the labels of the official Dockerfile frontend image of
// BuildKit v0.33: no network for the frontend, and what BuildKit may expect
// of it.
func FrontendLabels() map[string]string {
	const caps = "moby.buildkit.frontend."
	return map[string]string{
		"moby.buildkit.frontend.network.none": "true",
		"moby.buildkit.frontend.caps": strings.Join([]string{
			caps + "inputs", caps + "subrequests", caps + "contexts",
			caps + "gitquerystring", caps + "contexts.zstd",
		}, ","),
	}
}

// Frontend makes an image for the host's platform that holds one static binary
// as /bin/frontend and runs it. With nil labels it has FrontendLabels. The
// layer is not compressed: such images are made anew for each change.
func Frontend(binary string, labels map[string]string) (v1.Image, error) {
	return frontend(labels, binary)
}

// WrappedFrontend is Frontend where /bin/wrapper is what runs, with the path of
// the frontend as its argument.
func WrappedFrontend(binary, wrapper string) (v1.Image, error) {
	return frontend(nil, binary, wrapper)
}

// frontend makes an image of a frontend and what wraps it, innermost first.
func frontend(labels map[string]string, binaries ...string) (v1.Image, error) {
	if labels == nil {
		labels = FrontendLabels()
	}
	t := newTree()
	var entrypoint []string
	for i, name := range []string{"/bin/frontend", "/bin/wrapper"}[:len(binaries)] {
		data, err := os.ReadFile(binaries[i])
		if err != nil {
			return nil, fmt.Errorf("frontend image: %w", err)
		}
		t.add(name, entry{mode: 0o755, content: data})
		entrypoint = append([]string{name}, entrypoint...)
	}
	layer, err := t.plain()
	if err != nil {
		return nil, fmt.Errorf("frontend image: %w", err)
	}
	return assemble("linux/"+runtime.GOARCH, layer, []func(*v1.ConfigFile){func(c *v1.ConfigFile) {
		c.Config.Labels = maps.Clone(labels)
		c.Config.Entrypoint = entrypoint
		c.Config.WorkingDir = "/"
	}})
}
