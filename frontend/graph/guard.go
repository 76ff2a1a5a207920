package graph

import (
	"regexp"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// Guard returns def with a source beside its graph, and a policy to solve it
// with, so that solving fails if a source policy of the build denies the source
// or makes anything else of it.
//
// The daemon evaluates policies on every source op of a definition, also on one
// that nothing depends on and that is never run, and it evaluates this policy
// after the user's. So it costs neither a request nor time.
func Guard(def *pb.Definition, source string) (*pb.Definition, *spb.Policy, error) {
	op := &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: source}}}
	dt, err := op.Marshal()
	if err != nil {
		return nil, nil, err
	}
	vs, err := parse(def)
	if err != nil {
		return nil, nil, err
	}
	guarded := def.CloneVT()
	guarded.Def = append([][]byte{dt}, guarded.Def...)

	// The last rule that matches counts.
	rules := []*spb.Rule{{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: "*", MatchType: spb.MatchType_WILDCARD}}}
	allow := func(id string) {
		rules = append(rules, &spb.Rule{Action: spb.PolicyAction_ALLOW, Selector: &spb.Selector{Identifier: id, MatchType: spb.MatchType_EXACT}})
	}
	allow(source)
	for _, v := range vs {
		if own := v.op.GetSource(); own != nil {
			allow(own.Identifier)
		}
	}
	// A regular expression, since daemons up to v0.12 at least take two rules
	// with the same identifier and match type for one, whatever their
	// constraints are.
	rules = append(rules, &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{
		Identifier: "^" + regexp.QuoteMeta(source) + "$", MatchType: spb.MatchType_REGEX,
		Constraints: []*spb.AttrConstraint{{Key: pb.AttrImageChecksum, Condition: spb.AttrMatch_MATCHES, Value: "."}},
	}})
	return guarded, &spb.Policy{Version: 1, Rules: rules}, nil
}
