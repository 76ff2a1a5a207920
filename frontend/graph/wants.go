package graph

import (
	"slices"

	"github.com/moby/buildkit/solver/pb"
)

// Want is what a step that came from a named result takes from the user who
// builds: no record has it.
type Want struct {
	// Result is the name of the result, Step that of the step.
	Result, Step string
	// Secrets and SSH are the ids that it mounts.
	Secrets, SSH []string
	// Context is the name of the context whose files it holds, if it does.
	Context string
}

// KeyContext is the key of a vertex's description that has the name of the
// context whose files the vertex holds: if they are collected, nobody but the
// build that sent them can send them again.
const KeyContext = "localfront.context"

// Wants returns, by the digest of the vertex, what the steps of named results in
// def want. What a step can do without is left out.
func Wants(def *pb.Definition) (map[string]Want, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	wants := map[string]Want{}
	for _, v := range vs {
		exec := v.op.GetExec()
		desc := v.meta.GetDescription()
		if exec == nil || desc[keyResult] == "" {
			continue
		}
		w := Want{Result: desc[keyResult], Step: desc[keyName], Context: desc[KeyContext]}
		for _, m := range exec.Mounts {
			if s := m.GetSecretOpt(); s != nil && !s.Optional {
				w.Secrets = append(w.Secrets, s.ID)
			}
			if s := m.GetSSHOpt(); s != nil && !s.Optional {
				w.SSH = append(w.SSH, s.ID)
			}
		}
		for _, s := range exec.Secretenv {
			if !s.Optional {
				w.Secrets = append(w.Secrets, s.ID)
			}
		}
		if len(w.Secrets)+len(w.SSH)+len(w.Context) > 0 {
			slices.Sort(w.Secrets)
			w.Secrets = slices.Compact(w.Secrets)
			wants[v.digest] = w
		}
	}
	return wants, nil
}
