package frontend

import (
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
)

// expect reads what is remembered of the names of a Dockerfile, before they are
// asked for. A name that it does not see is read when it is.
func (c *decorated) expect(ctx context.Context, dockerfile []byte) {
	for _, name := range expectedNames(dockerfile, c.ahead.opts) {
		c.ahead.going.Go(func() { c.names.Expect(ctx, name) })
	}
}

// expectedNames returns the images that the target of a Dockerfile is built
// from, as far as that is plain to see: names with variables in them are left
// out, and so is whatever a named context may stand for. A name that the build
// does not need must not be among them, since looking it up can start a
// container.
func expectedNames(dockerfile []byte, opts map[string]string) []reference.Named {
	for k := range opts {
		if strings.HasPrefix(k, "context:") {
			return nil
		}
	}
	_, stages, _, err := parseDockerfile(dockerfile)
	if err != nil || len(stages) == 0 {
		return nil
	}
	target := len(stages) - 1
	if t := opts["target"]; t != "" {
		i, ok := instructions.HasStage(stages, t)
		if !ok {
			return nil
		}
		target = i
	}
	w := walk{stages: stages, seen: map[int]bool{}}
	w.stage(target)
	return w.names
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
}

func (w *walk) stage(i int) {
	if w.seen[i] {
		return
	}
	w.seen[i] = true
	s := w.stages[i]
	w.name(i, s.BaseName)
	for _, cmd := range s.Commands {
		if c, ok := cmd.(*instructions.CopyCommand); ok && c.From != "" {
			w.name(i, c.From)
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
		if j >= 0 && j < i {
			w.stage(j)
		}
		return
	}
	if name == dockerui.EmptyImageName || strings.Contains(name, "$") {
		return
	}
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		w.names = append(w.names, reference.TagNameOnly(named))
	}
}
