package testregistry

import "testing"

// New starts a registry that ends with the test.
func New(t testing.TB) *Registry {
	t.Helper()
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}
