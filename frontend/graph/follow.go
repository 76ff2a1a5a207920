package graph

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/opencontainers/go-digest"
)

// Followed is a definition that transfers more files than it was made for.
type Followed struct {
	*pb.Definition
	// Was and Now are the digests of the local source before and after. They
	// are the same where nothing had to be changed.
	Was, Now digest.Digest
}

// Follow returns def, which loads a few files from the client, with paths among
// those files. A source that is no such selection of files has them all and
// stays as it is.
func Follow(def *pb.Definition, paths ...string) (Followed, error) {
	vs, err := parse(def)
	if err != nil {
		return Followed{}, err
	}
	same := Followed{Definition: def}
	if len(vs) != 2 {
		return same, nil
	}
	src := vs[0].op.GetSource()
	attr, selects := src.GetAttrs()[pb.AttrFollowPaths]
	if !selects || !strings.HasPrefix(src.Identifier, localPrefix) {
		return same, nil
	}
	var follow []string
	if err := json.Unmarshal([]byte(attr), &follow); err != nil {
		return Followed{}, fmt.Errorf("%w: %s: %w", ErrInvalid, pb.AttrFollowPaths, err)
	}
	for _, p := range paths {
		if !slices.Contains(follow, p) {
			follow = append(follow, p)
		}
	}
	dt, err := json.Marshal(follow)
	if err != nil {
		return Followed{}, err
	}
	src.Attrs[pb.AttrFollowPaths] = string(dt)
	was := digest.Digest(vs[0].digest)
	now, err := assemble(def, vs, nil)
	if err != nil {
		return Followed{}, err
	}
	return Followed{Definition: now, Was: was, Now: digest.FromBytes(now.Def[0])}, nil
}

const localPrefix = srctypes.LocalScheme + "://"
