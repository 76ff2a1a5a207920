// Package upstream proves localfront on BuildKit's own harness, with the OCI
// and the containerd worker, beside the official frontend.
//
// It runs in namespaces of its own (see TestMain): root is needed, and a worker
// or engine that is missing fails the tests.
package upstream
