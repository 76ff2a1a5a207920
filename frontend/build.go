// Package frontend is localfront: BuildKit's own Dockerfile frontend on a
// gateway client that answers image names from what the builder already knows.
//
// Build wraps the client and calls frontend/dockerfile/builder.Build, so the
// grammar, the graph and the errors of a Dockerfile are BuildKit's. Every image
// name a Dockerfile or a build uses passes through the client's
// ResolveImageConfig, and every definition through its Solve: there it decides
// who answers (package resolve), remembers (package ledger) and rewrites
// (package graph).
package frontend

import (
	"context"
	"maps"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
)

// Keys of the options that BuildKit gives a frontend.
const (
	keyCmdline    = "cmdline"   // the whole # syntax= line behind the =
	keySource     = "source"    // the frontend's image
	keyRequestID  = "requestid" // set for lint, outline and the like
	keyProvenance = "attest:provenance"
	keyPlatform   = "platform"
	keyResolve    = "image-resolve-mode"
	keySyntaxArg  = argPrefix + "BUILDKIT_SYNTAX"
)

// Build is the frontend. It builds what the options of c name, or answers the
// subrequest they name, exactly as the official Dockerfile frontend does.
func Build(ctx context.Context, c client.Client) (*client.Result, error) {
	opts, err := parseOptions(c.BuildOpts().Opts)
	if err != nil {
		return nil, onSyntaxLine(ctx, c, err)
	}
	d := decorate(c, opts)
	defer d.ahead.going.Wait()
	if len(opts.names) == 0 {
		d.memory.foresee(ctx, &d.ahead.going)
	}
	if id, ok := d.bopts.Opts[keyRequestID]; ok {
		if res, ok, err := d.call(ctx, id); ok {
			return res, err
		}
	}
	if opts.lock != "" {
		res, err := d.writeLock(ctx)
		return res, d.explain(ctx, err)
	}
	if _, subrequest := d.bopts.Opts[keyRequestID]; !subrequest {
		d.naming = newNaming(ctx, c, opts.names, d.memory)
	}
	res, err := builder.Build(ctx, d)
	if err != nil || res == nil || d.forwarded {
		return res, d.explain(ctx, err)
	}
	if err := d.granted(ctx, res); err != nil {
		return nil, err
	}
	d.remember(ctx, res)
	return res, nil
}

// forward is called where the official frontend would hand the build over to
// the frontend that a # syntax= line or BUILDKIT_SYNTAX names. That happens
// only where localfront was chosen without such a line (buildctl --opt
// source=…), since BuildKit says so in cmdline otherwise. Whoever chose it so
// gets it: the line's words count if it names this frontend, and another
// frontend is followed only for BUILDKIT_SYNTAX, which is an explicit choice as
// well.
func (c *decorated) forward(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	c.forwarded = true
	opts := maps.Clone(req.FrontendOpt)
	if !sameRepository(opts[keySource], c.source) {
		if _, explicit := opts[keySyntaxArg]; explicit {
			return c.Client.Solve(ctx, req)
		}
		opts[keyCmdline] = c.source
	}
	opts[keySource] = c.source
	maps.Copy(opts, c.own)
	return Build(ctx, &withOpts{Client: c.Client, opts: opts})
}

// sameRepository reports whether two references name one repository.
func sameRepository(a, b string) bool {
	na, errA := reference.ParseNormalizedNamed(a)
	nb, errB := reference.ParseNormalizedNamed(b)
	return errA == nil && errB == nil && na.Name() == nb.Name()
}

// withOpts is a client with other options.
type withOpts struct {
	client.Client
	opts map[string]string
}

var _ client.Client = &withOpts{}

// BuildOpts returns those of the client with the other options.
func (c *withOpts) BuildOpts() client.BuildOpts {
	b := c.Client.BuildOpts()
	b.Opts = c.opts
	return b
}

// onSyntaxLine gives an error about an option the place of the # syntax= line
// in the Dockerfile, if that is where the option stands.
func onSyntaxLine(ctx context.Context, c client.Client, err error) error {
	cmdline := c.BuildOpts().Opts[keyCmdline]
	dc, cerr := dockerui.NewClient(&withOpts{Client: c, opts: maps.Clone(c.BuildOpts().Opts)})
	if cerr != nil {
		return err
	}
	src, rerr := dc.ReadEntrypoint(ctx, "Dockerfile")
	if rerr != nil {
		return err
	}
	_, line, ranges, ok := parser.DetectSyntax(src.Data)
	if !ok || strings.TrimSpace(line) != strings.TrimSpace(cmdline) {
		return err
	}
	at := sourceOf(src)
	at.Ranges = pbRanges(ranges)
	return errdefs.WithSource(err, at)
}
