package frontend

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/gitutil"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/frontend/calls"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/frontend/resolve"
)

// lockVerbs are the --call verbs about the lock.
func (c *decorated) lockVerbs() calls.Table {
	return calls.Table{
		{Name: "lock", Description: "Print Dockerfile.lock", Run: c.located(c.callLock)},
		{Name: "lock.check", Description: "Check Dockerfile.lock: what is missing, stale and unused", Run: c.located(c.callCheck)},
		{Name: "lock.policy", Description: "Print Dockerfile.lock as a BuildKit source policy", Run: c.located(c.callPolicy)},
		{Name: "resolve", Description: "List who answers each name, without asking a registry", Run: c.located(c.callResolve)},
		{Name: "outdated", Description: "Ask what pinned and remembered names mean now", Run: c.located(c.callOutdated)},
	}
}

// located gives the errors of a verb their places.
func (c *decorated) located(run func(context.Context) (calls.Answer, error)) func(context.Context) (calls.Answer, error) {
	return func(ctx context.Context) (calls.Answer, error) {
		a, err := run(ctx)
		return a, c.onLockLine(err)
	}
}

// quietSurvey returns the names of the Dockerfile, and the lock, without asking
// a registry.
func (c *decorated) quietSurvey(ctx context.Context) (*survey, *lockfile.File, error) {
	s, err := c.survey(ctx, c.quiet())
	if err != nil {
		return nil, nil, err
	}
	f, err := c.readLock(ctx)
	return s, f, err
}

func (c *decorated) callLock(ctx context.Context) (calls.Answer, error) {
	s, f, err := c.quietSurvey(ctx)
	if err != nil {
		return calls.Answer{}, err
	}
	return calls.Lock(f, c.lockName(f), c.command(s, lockUpdate)), nil
}

func (c *decorated) callPolicy(ctx context.Context) (calls.Answer, error) {
	s, f, err := c.quietSurvey(ctx)
	if err != nil {
		return calls.Answer{}, err
	}
	if f == nil {
		return calls.Lock(f, c.lockName(f), c.command(s, lockUpdate)), nil
	}
	return calls.Policy(f, func(address string) string {
		remote, err := gitutil.ParseURL(address)
		if err != nil {
			return "git://" + address
		}
		return "git://" + remote.Host + "/" + strings.TrimPrefix(remote.Path, "/")
	})
}

func (c *decorated) callCheck(ctx context.Context) (calls.Answer, error) {
	s, f, err := c.quietSurvey(ctx)
	if err != nil {
		return calls.Answer{}, err
	}
	check := calls.Check{File: c.lockName(f), Pins: len(f.Entries())}
	now := c.askAll(ctx, s, func(u *use) bool { _, ok := f.Get(u.Key); return ok || u.optional })
	for _, u := range s.sorted() {
		line := lineOf(u)
		e, pinned := f.Get(u.Key)
		m := now[u.Key]
		switch {
		case !pinned:
			check.Missing = append(check.Missing, line)
		case m.err != nil:
			line.Reason = m.err.Error()
			check.Unknown = append(check.Unknown, line)
		case m.value != e.Value:
			line.Was, line.Now = e.Value, m.value
			check.Stale = append(check.Stale, line)
		}
		if u.optional && m.err == nil && m.value != "" {
			check.Syntax = c.pinnedSyntax(u, m.value, e.Value)
		}
	}
	if f == nil || f.Name == c.lock.own() {
		for _, e := range f.Entries() {
			if _, used := s.uses[e.Key]; !used {
				check.Unused = append(check.Unused, calls.Source{Kind: e.Kind, Name: short(e.Key)})
			}
		}
	}
	switch {
	case len(check.Stale)+len(check.Unused) > 0:
		check.Command = c.command(s, lockUpdate)
	case len(check.Missing) > 0:
		check.Command = c.command(s, lockAdd)
	}
	return check.Answer(), nil
}

// pinnedSyntax returns the # syntax= line with the digest that the lock has, or
// the one the image has now.
func (c *decorated) pinnedSyntax(u *use, now, locked string) string {
	if locked != "" {
		now = locked
	}
	line := "# syntax=" + u.short() + "@" + now
	if _, words, ok := strings.Cut(strings.TrimSpace(c.bopts.Opts[keyCmdline]), " "); ok {
		line += " " + words
	}
	return line
}

// meaning is what a source means now.
type meaning struct {
	value string
	err   error
}

// askAll asks what the uses mean now that wanted chooses, all at the same time.
func (c *decorated) askAll(ctx context.Context, s *survey, wanted func(*use) bool) map[lockfile.Key]meaning {
	w := &lockWriter{decorated: c, mode: lockUpdate}
	ask := w.answerer()
	var chosen []*use
	for _, u := range s.sorted() {
		if wanted(u) {
			chosen = append(chosen, u)
		}
	}
	found := make([]meaning, len(chosen))
	var eg errgroup.Group
	eg.SetLimit(16)
	for i, u := range chosen {
		eg.Go(func() error {
			fresh := *u
			if u.remote == nil {
				a, err := ask(ctx, u.queries[0])
				if err != nil {
					found[i].err = err
					return nil
				}
				fresh.answer = a
			}
			found[i].value, found[i].err = c.value(ctx, &fresh)
			return nil
		})
	}
	_ = eg.Wait() // what failed is in found
	out := map[lockfile.Key]meaning{}
	for i, u := range chosen {
		out[u.Key] = found[i]
	}
	return out
}

func lineOf(u *use) calls.Source {
	line := calls.Source{Kind: u.Kind, Name: u.short()}
	for _, r := range u.places {
		line.Lines = append(line.Lines, int(r.Start.Line))
	}
	return line
}

// standings returns a resolver that only looks.
func (c *decorated) standings() *resolve.Resolver {
	return resolve.New(c.looking(), c.memory, c.memory, resolve.Options{Offline: true, Lock: c.readLock, Layers: true}, c.clock)
}

// looking returns the builder's answers without those that need a registry.
func (c *decorated) looking() *builderQueries {
	return &builderQueries{client: c.Client, bopts: c.bopts, stores: c.builder.stores}
}

func (c *decorated) callResolve(ctx context.Context) (calls.Answer, error) {
	s, f, err := c.quietSurvey(ctx)
	if err != nil {
		return calls.Answer{}, err
	}
	r := c.standings()
	rows := map[string]calls.Standing{}
	for _, q := range s.asked {
		st, err := r.Standing(ctx, q)
		if err != nil {
			return calls.Answer{}, err
		}
		out := row(q, st)
		rows[out.Name+" "+out.Platform] = out
	}
	var all []calls.Standing
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		all = append(all, rows[k])
	}
	for _, u := range s.sorted() {
		if u.remote == nil {
			continue
		}
		out := calls.Standing{Name: u.short(), Who: "its server", Content: "unknown"}
		if e, ok := f.Get(u.Key); ok {
			out.Who, out.Digest = string(resolve.ByLock), e.Value
		}
		all = append(all, out)
	}
	return calls.Resolve(all, c.clock()), nil
}

// row is one line of --call=resolve.
func row(q resolve.Query, st resolve.Standing) calls.Standing {
	out := calls.Standing{
		Name: reference.FamiliarString(q.Name), Platform: platforms.FormatAll(q.Platform),
		Who: string(st.Who), Digest: st.Digest.String(), Content: "elsewhere",
	}
	switch {
	case st.Layers:
		out.Content = "here"
	case st.Metadata:
		out.Content = "metadata"
	}
	if !st.Since.IsZero() {
		out.Since = &st.Since
	}
	return out
}

func (c *decorated) callOutdated(ctx context.Context) (calls.Answer, error) {
	s, f, err := c.quietSurvey(ctx)
	if err != nil {
		return calls.Answer{}, err
	}
	r := c.standings()
	known := map[lockfile.Key]calls.Source{}
	for _, u := range s.sorted() {
		line := lineOf(u)
		if e, ok := f.Get(u.Key); ok {
			line.Was, line.Known = e.Value, f.Name
		} else if u.remote == nil {
			st, err := r.Standing(ctx, u.queries[0])
			if err != nil {
				return calls.Answer{}, err
			}
			if st.Who != resolve.ByResult && st.Digest != "" {
				line.Was, line.Known = st.Digest.String(), string(resolve.ByMemory)
			}
		}
		if line.Was != "" {
			known[u.Key] = line
		}
	}
	now := c.askAll(ctx, s, func(u *use) bool { _, ok := known[u.Key]; return ok })
	var moved []calls.Source
	for _, u := range s.sorted() {
		line, ok := known[u.Key]
		if !ok {
			continue
		}
		m := now[u.Key]
		if m.err != nil {
			line.Reason = m.err.Error()
		}
		if line.Now = m.value; m.err != nil || m.value != line.Was {
			moved = append(moved, line)
		}
	}
	return calls.Outdated(moved, len(known)), nil
}
