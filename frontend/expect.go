package frontend

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"

	"github.com/org/localfront/frontend/resolve"
)

// expect reads what is remembered of the names of a Dockerfile, before they are
// asked for. A name that it does not see is read when it is. Once it is plain that
// memory answers all of them, the next that is asked for is .dockerignore.
func (c *decorated) expect(ctx context.Context, dockerfile []byte, hasIgnore func() bool) {
	names, all := expectedNames(dockerfile, c.ahead.opts)
	var reads sync.WaitGroup
	for _, name := range names {
		reads.Go(func() { c.names.Expect(ctx, name) })
	}
	reads.Wait()
	forgotten := func(n reference.Named) bool { return !c.names.Remembers(ctx, n, c.defaultPlatform()) }
	if all && c.plain() && !slices.ContainsFunc(names, forgotten) && !hasIgnore() {
		c.loadIgnore(ctx)
	}
}

// plain reports whether this is a build, and one of the usual kind: of a context
// on the user's machine, for one platform, with memory asked first.
func (c *decorated) plain() bool {
	for _, k := range []string{keyRequestID, dockerui.DefaultLocalNameContext, keyContextKey, keyPlatform} {
		if _, ok := c.ahead.opts[k]; ok {
			return false
		}
	}
	c.mu.Lock()
	given := c.given
	c.mu.Unlock()
	mode := resolve.Mode(cmp.Or(c.ahead.opts[keyResolve], string(resolve.Default)))
	return !given && len(c.opts.names) == 0 && resolveMode(string(mode), c.bopts.Workers) == resolve.Default
}

// loadIgnore loads .dockerignore as BuildKit's frontend is going to. It is seen
// in the progress, so it must come to that.
func (c *decorated) loadIgnore(ctx context.Context) {
	dc, err := dockerui.NewClient(&beginner{
		withOpts: withOpts{Client: c.Client, opts: maps.Clone(c.bopts.Opts)}, ahead: c.ahead,
	})
	if err == nil {
		_, _ = dc.DockerIgnorePatterns(ctx) // the frontend will see what is wrong
	}
}

// beginner is a client whose requests are those that are going to be made.
type beginner struct {
	withOpts
	ahead *ahead
}

var _ client.Client = &beginner{}

// Inputs returns none: a build that has some is not plain.
func (b *beginner) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

// Solve begins a request.
func (b *beginner) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	return b.ahead.begin(ctx, req)
}

// expectedNames returns the images that the target of a Dockerfile is built
// from, as far as that is plain to see: names with variables in them are left
// out, and so is whatever a named context may stand for. With all, none was left
// out, and no stage says what may be wrong only later on. A name that the build
// does not need must not be among them, since looking it up can start a
// container.
func expectedNames(dockerfile []byte, opts map[string]string) (names []reference.Named, all bool) {
	for k := range opts {
		if strings.HasPrefix(k, "context:") {
			return nil, false
		}
	}
	_, stages, _, err := parseDockerfile(dockerfile)
	if err != nil || len(stages) == 0 {
		return nil, false
	}
	target := len(stages) - 1
	if t := opts["target"]; t != "" {
		i, ok := instructions.HasStage(stages, t)
		if !ok {
			return nil, false
		}
		target = i
	}
	w := walk{stages: stages, seen: map[int]bool{}}
	w.stage(target)
	_, _, _, check := parser.ParseDirective("check", dockerfile)
	return w.names, !w.odd && !check && !slices.ContainsFunc(stages, func(s instructions.Stage) bool { return s.Platform != "" })
}

// parseDockerfile returns the lines, the stages and the build args before the
// first of them. A check comment above an instruction wants a linter, though
// nobody looks at what it finds.
func parseDockerfile(text []byte) (*parser.Result, []instructions.Stage, []instructions.ArgCommand, error) {
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, nil, nil, err
	}
	stages, args, err := instructions.Parse(ast.AST, linter.New(&linter.Config{}))
	return ast, stages, args, err
}

// walk goes through the stages that a target needs.
type walk struct {
	stages []instructions.Stage
	seen   map[int]bool
	names  []reference.Named
	odd    bool // a name was left out
}

func (w *walk) stage(i int) {
	if w.seen[i] {
		return
	}
	w.seen[i] = true
	s := w.stages[i]
	w.name(i, s.BaseName)
	for _, cmd := range s.Commands {
		switch cmd := cmd.(type) {
		case *instructions.CopyCommand:
			if cmd.From != "" {
				w.name(i, cmd.From)
			}
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(cmd) {
				w.odd = w.odd || m.From != ""
			}
		}
	}
}

// name follows a name that stage i uses: an earlier stage, or an image.
func (w *walk) name(i int, name string) {
	j, isStage := instructions.HasStage(w.stages[:i], name)
	if n, err := strconv.Atoi(name); err == nil {
		j, isStage = n, true
	}
	if isStage {
		if j < 0 || j >= i {
			w.odd = true
			return
		}
		w.stage(j)
		return
	}
	if name == dockerui.EmptyImageName {
		return
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || strings.Contains(name, "$") {
		w.odd = true
		return
	}
	w.names = append(w.names, reference.TagNameOnly(named))
}
