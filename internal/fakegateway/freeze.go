package fakegateway

import (
	"fmt"
	"maps"
	"slices"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// The freezing agent's exit status, see frontend/agents/freeze.c.
const (
	statusAbsent = 4
	statusDigest = 5
)

// freeze is what the freezing agent does with the files of its mounts. Trees
// stands for the cache mount.
func (b *Builder) freeze(exec *pb.ExecOp, inputs []*result) (*result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	args := exec.Meta.Args
	if args[1] == "keep" {
		i := slices.IndexFunc(exec.Mounts, func(m *pb.Mount) bool { return m.Dest == "/in" && m.Readonly })
		if i < 0 {
			return nil, fmt.Errorf("exec %s: nothing is mounted at /in", args)
		}
		files := inputs[exec.Mounts[i].Input].files
		d := digest.FromBytes(marshal(files))
		if _, ok := b.trees[d]; !ok {
			b.trees[d] = maps.Clone(files)
		}
		return &result{files: map[string]string{"digest": d.String()}, agent: true}, nil
	}
	d := digest.Digest(args[2])
	files, ok := b.trees[d]
	delete(b.trees, d)
	switch {
	case !ok:
		return nil, exited(args, statusAbsent)
	case digest.FromBytes(marshal(files)) != d:
		return nil, exited(args, statusDigest)
	}
	if args[1] == "lend" {
		b.trees[d] = maps.Clone(files)
	}
	return &result{files: files}, nil
}

func exited(args []string, status uint32) error {
	return fmt.Errorf("process %q did not complete successfully: %w", args, &gwpb.ExitError{ExitCode: status})
}

// PruneCacheMounts empties the mount in which contexts are kept until they are
// taken.
func (b *Builder) PruneCacheMounts() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.trees)
}

// Tamper changes every file of every tree in that mount, and returns how many
// trees there are.
func (b *Builder) Tamper() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, files := range b.trees {
		for name := range files {
			files[name] += "tampered"
		}
	}
	return len(b.trees)
}
