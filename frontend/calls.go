package frontend

import (
	"context"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend/calls"
)

// verbs are localfront's own --call verbs.
func (c *decorated) verbs() calls.Table {
	return calls.Table{}
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
