package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/solver/errdefs"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/frontend/resolve"
)

// LockedError says which names of a Dockerfile the lock lacks, and how to add
// them.
type LockedError struct {
	// Lock says which lock it is, and that it is not there if so.
	Lock string
	// Names are the names as people write them, each with its lines.
	Names []string
	// Command adds them.
	Command string
	// Built are names that the lock lacks as well, but that builds of this
	// builder were given, and Instead pins what a registry has under them.
	Built   []string
	Instead string
}

// Error lists all that is missing and ends with the command that adds it.
func (e *LockedError) Error() string {
	if len(e.Built) == 0 {
		return fmt.Sprintf("locked is set and %s does not pin %s: %s", e.Lock, strings.Join(e.Names, ", "), e.Command)
	}
	built := fmt.Sprintf("%s, built on this builder under that name: name the build localhost/… instead, which needs no pin, or pin what a registry has: %s",
		strings.Join(e.Built, ", "), e.Instead)
	if len(e.Names) == 0 {
		return fmt.Sprintf("locked is set and %s does not pin %s", e.Lock, built)
	}
	return fmt.Sprintf("locked is set and %s does not pin %s: %s; nor %s", e.Lock, strings.Join(e.Names, ", "), e.Command, built)
}

// explain returns an error of the build as the user shall see it: about the
// lock, in the lock; about what it lacks, all of that at once.
func (c *decorated) explain(ctx context.Context, err error) error {
	if e := new(resolve.UnknownError); errors.As(err, &e) {
		return withoutName(e, err)
	}
	var missing *resolve.NotLockedError
	if !errors.As(err, &missing) || ctx.Err() != nil {
		return c.onLockLine(err)
	}
	s, serr := c.survey(ctx, c.quiet())
	if serr != nil {
		return err
	}
	f, _ := c.readLock(ctx) // that it cannot be read would have been the error
	return c.lacks(s, f, err)
}

// withoutName returns e with the places that err has. What the engine answers
// says the name, and BuildKit drops the name that its frontend puts before an
// answer (util/grpcerrors).
func withoutName(e *resolve.UnknownError, err error) error {
	var out error = e
	for _, at := range errdefs.Sources(err) {
		out = errdefs.WithSource(out, at)
	}
	return out
}

// lacks returns the error that f lacks something that s names, err where it
// lacks nothing.
func (c *decorated) lacks(s *survey, f *lockfile.File, err error) error {
	missing, built := s.missing(f), s.builtHere()
	if len(missing)+len(built) == 0 {
		return err
	}
	e := &LockedError{Lock: c.lockName(f), Command: c.command(s, "add")}
	switch {
	case f == nil && c.lock.empty != "":
		e.Lock += ", which is empty,"
	case f == nil:
		e.Lock += ", which does not exist,"
	}
	at := sourceOf(s.source)
	for _, u := range missing {
		e.Names = append(e.Names, u.String())
		at.Ranges = append(at.Ranges, u.places...)
	}
	var short []string
	for _, u := range built {
		e.Built, short = append(e.Built, u.String()), append(short, u.short())
		at.Ranges = append(at.Ranges, u.places...)
	}
	e.Instead = c.command(s, strings.Join(short, ","))
	if len(at.Ranges) == 0 {
		return e
	}
	return errdefs.WithSource(e, at)
}

// String returns the name as people write it, with its lines.
func (u *use) String() string {
	var lines []string
	for _, r := range u.places {
		lines = append(lines, fmt.Sprint(r.Start.Line))
	}
	switch len(lines) {
	case 0:
		return u.short()
	case 1:
		return u.short() + " (line " + lines[0] + ")"
	default:
		return u.short() + " (lines " + strings.Join(lines, ", ") + ")"
	}
}

func (u *use) short() string { return short(u.Key) }

// short returns the name of a key as people write it, to be shown.
func short(k lockfile.Key) string {
	if k.Kind == lockfile.Image {
		if named, err := reference.ParseNormalizedNamed(k.Name); err == nil {
			return reference.FamiliarString(named)
		}
	}
	return graph.HideSecrets(k.Name)
}

// lockName returns the name of the lock that is read, or would be written.
func (c *decorated) lockName(f *lockfile.File) string {
	if f != nil {
		return f.Name
	}
	return c.lock.own()
}

// command returns the command that writes the lock of this build: with all that
// decides which names the Dockerfile has.
func (c *decorated) command(s *survey, what string) string {
	return lockfile.Command(c.lock.own(), what, c.flags(s)...)
}

// flags are the user's flags that decide which names the Dockerfile has. They go
// into errors, and so into logs: a build arg that may be a secret stands without
// its value, which docker takes from the environment then.
func (c *decorated) flags(s *survey) (flags []string) {
	opts := c.ahead.opts
	if v := opts[keyPlatform]; v != "" {
		flags = append(flags, lockfile.Flag("--platform", v))
	}
	args := namingArgs(s.source.Data)
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		if name, ok := strings.CutPrefix(k, argPrefix); ok && (args[name] != unused || k == keySyntaxArg) {
			arg := name + "=" + v
			if args[name] == inCredentials || graph.LooksSecret(v) {
				arg = name
			}
			flags = append(flags, lockfile.Flag("--build-arg", arg))
		}
		name, ok := strings.CutPrefix(k, "context:")
		if ok && !strings.HasPrefix(v, "local:") && !strings.HasPrefix(v, "input:") && !strings.HasPrefix(v, "oci-layout:") {
			flags = append(flags, lockfile.Flag("--build-context", name+"="+lockfile.WithoutCredentials(v)))
		}
	}
	if v, ok := opts["attest:sbom"]; ok {
		flags = append(flags, lockfile.Flag("--attest", strings.TrimSuffix("type=sbom,"+v, ",")))
	}
	return flags
}

// argUse says what a build arg has to do with the names of a Dockerfile.
type argUse int

const (
	unused        argUse = iota
	inNames              // they may depend on it
	inCredentials        // it stands before the host of an address
)

// namingArgs returns the build args of a Dockerfile that names may depend on:
// those before the first stage, and those that an ADD uses.
func namingArgs(text []byte) map[string]argUse {
	args := map[string]argUse{}
	_, stages, meta, err := parseDockerfile(text)
	if err != nil {
		return args
	}
	for _, m := range meta {
		for _, a := range m.Args {
			args[a.Key] = inNames
		}
	}
	for _, stage := range stages {
		addArgs(stage, args)
	}
	return args
}

// addArgs takes note of the build args of a stage that the sources of an ADD have
// in them.
func addArgs(stage instructions.Stage, args map[string]argUse) {
	var declared, sources []string
	for _, cmd := range stage.Commands {
		switch cmd := cmd.(type) {
		case *instructions.ArgCommand:
			for _, a := range cmd.Args {
				declared = append(declared, a.Key)
			}
		case *instructions.AddCommand:
			sources = append(sources, cmd.SourcePaths...)
		}
	}
	all := strings.Join(sources, " ")
	public := lockfile.WithoutCredentials
	for _, name := range declared {
		for _, source := range sources {
			if mentions(source, name) && !mentions(public(source), name) {
				args[name] = inCredentials
			}
		}
		if args[name] == unused && mentions(all, name) {
			args[name] = inNames
		}
	}
}

// mentions reports whether a text has a build arg in it.
func mentions(text, arg string) bool {
	return strings.Contains(text, "$"+arg) || strings.Contains(text, "${"+arg)
}
