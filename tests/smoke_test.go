// Package tests holds what only a real daemon can prove.
package tests

import (
	"slices"
	"testing"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// TestSmoke proves the harness, with the official frontend.
func TestSmoke(t *testing.T) {
	t.Parallel()
	for _, worker := range testengine.Workers {
		t.Run(string(worker), func(t *testing.T) {
			t.Parallel()
			smoke(t, worker)
		})
	}
}

func smoke(t *testing.T, worker testengine.Worker) {
	reg := testregistry.New(t)
	official := testengine.PushOfficial(t, reg)
	alpine, err := testimage.Busybox("linux/amd64", testimage.Variant("3.20"))
	if err != nil {
		t.Fatal(err)
	}
	base, err := reg.Push("library/alpine:3.20", alpine)
	if err != nil {
		t.Fatal(err)
	}
	d := testengine.StartBuildkitd(t, testengine.Config{Worker: worker, Insecure: []string{reg.Host()}})

	build := func() (*testengine.Result, *testengine.OCIExport) {
		export := testengine.ExportOCI(t)
		opt := testengine.BuildOpt{
			Frontend:   official,
			Dockerfile: "FROM " + reg.Ref("library/alpine:3.20") + "\nRUN echo hi > /x\n",
		}
		opt.Exports = append(opt.Exports, export.Entry)
		return testengine.MustBuild(t.Context(), t, d, opt), export
	}

	first, export := build()
	if n := reg.Count(testregistry.InRepository("library/alpine"), testregistry.OfKind(testregistry.Manifest)); n == 0 {
		t.Errorf("the registry was not asked for the base image:\n%s", reg.Log())
	}
	img := export.Image(t, "linux/amd64")
	files := testengine.Files(t, img)
	if files["x"] != "hi\n" || files["etc/release"] != "3.20\n" {
		t.Errorf("built image has /x = %q, /etc/release = %q", files["x"], files["etc/release"])
	}
	if got := export.Descriptor(t).Digest.String(); got != first.Digest() {
		t.Errorf("exported %s, but the daemon said %s", got, first.Digest())
	}
	if run := first.Vertex("RUN echo hi"); run == nil || run.Cached {
		t.Errorf("the step did not run:\n%s", first)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	baseLayers, err := alpine.Layers()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := baseLayers[0].Digest()
	if got, _ := layers[0].Digest(); got != want {
		t.Errorf("base layer of %s is %s, want %s", base, got, want)
	}

	// The daemon remembers across a restart, and asks the registry again.
	reg.Reset()
	d.Restart(t)
	again, _ := build()
	if names := again.Executed(); slices.ContainsFunc(names, func(n string) bool { return n == "RUN echo hi > /x" }) ||
		!again.Vertex("RUN echo hi").Cached {
		t.Errorf("the step ran again:\n%s", again)
	}
	if reg.Count() == 0 {
		t.Error("the restarted daemon asked the registry nothing")
	}
	if again.Digest() == "" {
		t.Errorf("no digest in %v", again.ExporterResponse)
	}
}
