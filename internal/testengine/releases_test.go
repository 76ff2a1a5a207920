package testengine

import (
	"testing"

	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// TestOtherBuildkitds: what is not the newest buildkitd, run by root, starts
// and builds as well.
func TestOtherBuildkitds(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]Config{
		"rootless": {Rootless: true},
		"v0.12":    {Release: BuildKit012},
		"qemu":     {Emulate: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := testregistry.New(t)
			idx, err := testimage.Index([]string{"linux/amd64", "linux/arm64"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reg.Push("library/busybox:1", idx); err != nil {
				t.Fatal(err)
			}
			config.Insecure = []string{reg.Host()}
			d := StartBuildkitd(t, config)
			opt := BuildOpt{
				Dockerfile: "FROM " + reg.Ref("library/busybox:1") + "\nRUN echo $(id -u) > /x\n",
				Opts:       map[string]string{},
			}
			if config.Emulate {
				opt.Opts["platform"] = "linux/arm64"
			}
			MustBuild(t.Context(), t, d, opt)
			d.Restart(t)
			if v := MustBuild(t.Context(), t, d, opt).Vertex("RUN echo"); v == nil || !v.Cached {
				t.Errorf("the step is not cached after a restart: %v", v)
			}
		})
	}
}
