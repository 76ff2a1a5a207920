package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/org/localfront/frontend/graph"
)

// WantError says that a step of a named result had to run again and failed, and
// that it wants something of the user that nobody keeps.
type WantError struct {
	// Want is what it wants.
	Want graph.Want
	// Cause is how it failed.
	Cause error
}

// Error does not unwrap to its cause, as those of package resolve.
func (e *WantError) Error() string {
	if e.Want.Context != "" {
		return fmt.Sprintf("the named result %s is no longer whole on this builder: the files of its context %q were collected, so build %s again: %v",
			e.Want.Result, e.Want.Context, e.Want.Result, e.Cause)
	}
	var wants, flags []string
	for _, s := range e.Want.Secrets {
		wants = append(wants, "the secret "+s)
		flags = append(flags, "--secret id="+s+",…")
	}
	for _, s := range e.Want.SSH {
		if s == "" {
			s = "default"
		}
		wants = append(wants, "the SSH agent "+s)
		flags = append(flags, "--ssh "+s)
	}
	return fmt.Sprintf("the named result %s is no longer whole on this builder, and %q, which runs again, wants %s: give this build %s, or build %s again: %v",
		e.Want.Result, e.Want.Step, strings.Join(wants, " and "), strings.Join(flags, " "), e.Want.Result, e.Cause)
}

// sawWants takes note of what the steps of named results in def want.
func (c *decorated) sawWants(def *pb.Definition) error {
	if len(c.names.Used()) == 0 {
		return nil
	}
	wants, err := graph.Wants(def)
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.wants, wants)
	return err
}

// granted runs a build that uses named results which want something of the user,
// since a failure that the daemon reports would not say whose step it was. Other
// builds are left to the daemon.
func (c *decorated) granted(ctx context.Context, res *client.Result) error {
	c.mu.Lock()
	wants := maps.Clone(c.wants)
	c.mu.Unlock()
	if len(wants) == 0 {
		return nil
	}
	err := evaluate(ctx, c.bopts, res)
	var at *errdefs.VertexError
	if err == nil || !errors.As(err, &at) {
		return err
	}
	want, ok := wants[at.Digest]
	if !ok {
		return err
	}
	var explained error = &WantError{Want: want, Cause: err}
	for _, src := range errdefs.Sources(err) {
		explained = errdefs.WithSource(explained, src)
	}
	return explained
}
