// Package testregistry is an image registry for tests and the demo: in memory,
// on a loopback port of its own, with a log of every request and faults that
// are switched while it runs.
//
// Storage and uploads are go-containerregistry's. Around it this package is as
// strict as the distribution registry where that one is lenient: blobs belong
// to the repository they were pushed to, a manifest is refused when its blobs
// are missing, range requests follow HTTP, and errors carry the same codes. A
// test holds its answers against those of the real one.
//
// Several registries run side by side; all methods may be called at any time
// from any goroutine. The package leaves making images to testimage.
package testregistry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is one registry on one port of 127.0.0.1.
type Registry struct {
	addr    string
	blobs   *blobStore
	handler http.Handler // content alone: no log, no faults, no tokens

	mu        sync.Mutex
	server    *http.Server // nil while stopped
	held      int          // descriptor that keeps the port while stopped, or -1
	requests  []*Request
	auth      bool
	faults    map[string][]Fault // by repository; All is every repository
	changed   chan struct{}      // closed when faults change, which frees the hanging
	swallowed []net.Conn         // what fills the queue of a black hole
}

// Open starts a registry on a free port. The caller closes it.
func Open() (*Registry, error) {
	blobs := newBlobStore()
	r := &Registry{
		blobs:   blobs,
		held:    -1,
		faults:  map[string][]Fault{},
		changed: make(chan struct{}),
	}
	r.handler = r.strict(registry.New(
		registry.Logger(log.New(io.Discard, "", 0)),
		registry.WithBlobHandler(blobs),
	))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r.addr = l.Addr().String()
	r.serve(l)
	return r, nil
}

// Host is the registry's part of a reference, "127.0.0.1:PORT". It stays the
// same when the registry is stopped and started.
func (r *Registry) Host() string { return r.addr }

// Ref is the full reference of a name in this registry: Ref("alpine:3.20") is
// "127.0.0.1:PORT/alpine:3.20".
func (r *Registry) Ref(name string) string { return r.addr + "/" + name }

func (r *Registry) serve(l net.Listener) {
	s := &http.Server{Handler: http.HandlerFunc(r.front), ErrorLog: log.New(io.Discard, "", 0)}
	r.server = s
	go func() { _ = s.Serve(l) }()
}

// Stop closes the listener and every connection: from now on dials are
// refused. Content, log and faults stay, and nobody else gets the port.
func (r *Registry) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return
	}
	_ = r.server.Close()
	r.server = nil
	r.held = hold(r.addr)
}

// Start listens again on the same port after Stop. On a running registry it
// does nothing.
func (r *Registry) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		return nil
	}
	r.release()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", r.addr); err == nil {
			r.serve(l)
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("start registry again: %w", err)
}

// Close stops the registry for good.
func (r *Registry) Close() {
	r.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release()
}

// hold binds addr without listening on it: dials are refused, as on a free
// port, but no other process is given it. It returns -1 where that fails,
// which only makes the port less safe.
func hold(addr string) int {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return -1
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	sa := &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
	// Reuse is needed to bind while old connections linger, and must then end:
	// two sockets that both allow it can share a port until one listens.
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(fd, sa),
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0),
	)
	if err != nil {
		_ = syscall.Close(fd)
		return -1
	}
	return fd
}

func (r *Registry) release() {
	if r.held >= 0 {
		_ = syscall.Close(r.held)
	}
	r.held = -1
	for _, c := range r.swallowed {
		_ = c.Close()
	}
	r.swallowed = nil
}
