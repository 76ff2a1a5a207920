// Package agents holds the programs that localfront runs in containers of the
// builder: freestanding C, committed as built. See the source of each for what
// it does, and build.sh for how its bytes are made. The package only hands out
// those bytes; the vertices that run them are made elsewhere.
package agents

import (
	"embed"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Agent is one of the programs.
type Agent string

// The programs.
const (
	Ledger Agent = "ledger" // ledger.c: its environment to a file
	Freeze Agent = "freeze" // freeze.c: a context to a cache mount and out of it
)

// Every architecture is embedded, since a worker's need not be the frontend's.
//
//go:embed bin/*-linux-*
var binaries embed.FS

// UnsupportedError says that an agent is not built for a platform.
type UnsupportedError struct {
	// Agent is the program asked for.
	Agent Agent
	// Platform is the platform asked for, normalized.
	Platform ocispecs.Platform
}

// Error names the platform and those that have agents.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("no %s agent for platform %s: use a linux builder on one of amd64, 386, arm64, arm, ppc64le, riscv64 or s390x",
		e.Agent, platforms.Format(e.Platform))
}

// For returns the agent's executable for a platform, of which only the
// operating system and the architecture matter: the agent for each
// architecture runs on all its variants. The bytes are the caller's to keep.
// The error is an *UnsupportedError if there is no such agent.
func (a Agent) For(p ocispecs.Platform) ([]byte, error) {
	p = platforms.Normalize(p)
	if p.OS != "linux" {
		return nil, &UnsupportedError{Agent: a, Platform: p}
	}
	dt, err := binaries.ReadFile("bin/" + string(a) + "-linux-" + p.Architecture)
	if err != nil {
		return nil, &UnsupportedError{Agent: a, Platform: p}
	}
	return dt, nil
}

// ForBuilder returns the agent's executable for the first worker of a builder,
// and that worker's platform. It is an error if the builder names no worker or
// lacks one of caps.
func (a Agent) ForBuilder(bopts client.BuildOpts, caps ...apicaps.CapID) ([]byte, ocispecs.Platform, error) {
	if len(bopts.Workers) == 0 || len(bopts.Workers[0].Platforms) == 0 {
		return nil, ocispecs.Platform{}, errors.New("it names no worker")
	}
	for _, c := range caps {
		if err := bopts.LLBCaps.Supports(c); err != nil {
			return nil, ocispecs.Platform{}, err
		}
	}
	p := bopts.Workers[0].Platforms[0]
	bin, err := a.For(p)
	return bin, p, err
}
