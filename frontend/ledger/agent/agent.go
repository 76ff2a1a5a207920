// Package agent holds the program that the ledger runs in a container to turn
// a value into a file: see agent.c for what it does, and build.sh for how its
// committed bytes are made. It only hands out those bytes; the vertices that
// run them are the ledger's.
package agent

import (
	"embed"
	"fmt"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Every architecture is embedded, since a worker's need not be the frontend's.
//
//go:embed bin/agent-linux-*
var binaries embed.FS

// UnsupportedError says that no agent is built for a platform.
type UnsupportedError struct {
	// Platform is the platform asked for, normalized.
	Platform ocispecs.Platform
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("no ledger agent for platform %s: use a linux builder on one of amd64, 386, arm64, arm, ppc64le, riscv64 or s390x",
		platforms.Format(e.Platform))
}

// For returns the agent's executable for a platform, of which only the
// operating system and the architecture matter: the agent for each
// architecture runs on all its variants. The bytes are the caller's to keep.
// The error is an *UnsupportedError if there is no such agent.
func For(p ocispecs.Platform) ([]byte, error) {
	p = platforms.Normalize(p)
	if p.OS != "linux" {
		return nil, &UnsupportedError{Platform: p}
	}
	dt, err := binaries.ReadFile("bin/agent-linux-" + p.Architecture)
	if err != nil {
		return nil, &UnsupportedError{Platform: p}
	}
	return dt, nil
}
