package testengine

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/localfront/internal/testimage"
	"github.com/org/localfront/internal/testregistry"
)

// PushFrontends pushes the official Dockerfile frontend and localfront to a
// registry and returns their references, pinned by digest.
func PushFrontends(t testing.TB, reg *testregistry.Registry) (official, localfront string) {
	t.Helper()
	return PushOfficial(t, reg), PushLocalfront(t, reg)
}

// PushOfficial pushes the official Dockerfile frontend and returns its
// reference, pinned by digest.
func PushOfficial(t testing.TB, reg *testregistry.Registry) string {
	t.Helper()
	return pushFrontend(t, reg, "docker/dockerfile:1", Bin(t, "dockerfile-frontend"))
}

// PushLocalfront pushes localfront and returns its reference, pinned by digest.
func PushLocalfront(t testing.TB, reg *testregistry.Registry) string {
	t.Helper()
	return pushFrontend(t, reg, "org/localfront:1", LocalfrontBinary(t))
}

// LocalfrontBinary is the frontend under test: $LOCALFRONT_FRONTEND or else
// bin/frontend of this repository.
func LocalfrontBinary(t testing.TB) string {
	t.Helper()
	binary := os.Getenv("LOCALFRONT_FRONTEND")
	if binary == "" {
		root, err := testimage.RepoRoot()
		if err != nil {
			t.Fatal(err)
		}
		binary = filepath.Join(root, "bin", "frontend")
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("localfront: %v; run make frontend", err)
	}
	return binary
}

// images are those of frontends, by their binaries.
var images sync.Map

func pushFrontend(t testing.TB, reg *testregistry.Registry, name, binary string) string {
	t.Helper()
	made, _ := images.LoadOrStore(binary, sync.OnceValues(func() (v1.Image, error) { return testimage.Frontend(binary, nil) }))
	img, err := made.(func() (v1.Image, error))()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := reg.Push(name, img)
	if err != nil {
		t.Fatal(err)
	}
	return reg.Ref(name) + "@" + digest
}
