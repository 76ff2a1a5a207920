package frontend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/frontend/calls"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/resolve"
)

// verbs are localfront's own --call verbs.
func (c *decorated) verbs() calls.Table {
	return append(c.lockVerbs(),
		calls.Verb{Name: "names", Description: "List the named results of this builder", Run: c.listNames},
	)
}

// listNames answers --call=names. A name whose result is forgotten is left out.
func (c *decorated) listNames(ctx context.Context) (calls.Answer, error) {
	l := c.memory.ledger
	if l == nil {
		return calls.Answer{}, fmt.Errorf("this builder has no named results: %w", c.memory.defect)
	}
	names, err := l.Names(ctx)
	if err != nil {
		return calls.Answer{}, fmt.Errorf("the list of named results: %w", err)
	}
	found := make([]*ledger.Result, len(names))
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(16)
	for i, name := range names {
		eg.Go(func() (err error) {
			if found[i], err = l.Result(ctx, name); err != nil {
				err = fmt.Errorf("%s: %w", resolve.Short(name), err)
			}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return calls.Answer{}, err
	}
	var all []calls.Named
	for i, r := range found {
		if r == nil {
			continue
		}
		n := calls.Named{
			Name: resolve.Short(names[i]), Platforms: slices.Sorted(maps.Keys(r.Platforms)),
			Built: r.Built, Dockerfile: r.Dockerfile, From: []string{},
		}
		for _, f := range r.From[""] {
			n.From = append(n.From, resolve.Short(f))
		}
		all = append(all, n)
	}
	return calls.Names(all, time.Now()), nil
}

// call answers the subrequest id if it is one of localfront's own, or the list
// of all.
func (c *decorated) call(ctx context.Context, id string) (_ *client.Result, ok bool, _ error) {
	if id == calls.Describe {
		res, err := builder.Build(ctx, c)
		if err == nil && !c.forwarded {
			res, err = c.verbs().Describe(res)
		}
		return res, true, err
	}
	v, ok := c.verbs().Find(id)
	if !ok {
		return nil, false, nil
	}
	a, err := v.Run(ctx)
	if err != nil {
		return nil, true, err
	}
	res, err := a.Result()
	return res, true, err
}
