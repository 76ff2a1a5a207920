package graph

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
)

// UnfitError says why a definition cannot stand for its build later on.
type UnfitError struct {
	// Step is the name of the step at fault, as the user saw it, if it has one.
	Step string
	// Reason says what is wrong with it.
	Reason string
}

// Error says why the definition is refused.
func (e *UnfitError) Error() string {
	if e.Step == "" {
		return e.Reason
	}
	return fmt.Sprintf("%s: %s", e.Step, e.Reason)
}

// Fit reports, as an *UnfitError or an error that wraps ErrInvalid, why def
// cannot be recorded and used by a later build: something in it is unknown to
// this version, can change from one day to the next, belongs to the session of
// one build, or would have been stripped by Record.
//
// It is asked when a record is written and again when one is read, since
// anybody who can run a frontend on the builder can write one.
func Fit(def *pb.Definition) error {
	vs, err := parse(def)
	if err != nil {
		return err
	}
	if _, _, err := terminal(vs); err != nil {
		return err
	}
	// Assembling checks that every input is there, and before its user, also
	// that of the end.
	if _, err := assemble(def, vs, nil); err != nil {
		return err
	}
	for _, loc := range def.GetSource().GetLocations() {
		for _, l := range loc.GetLocations() {
			if i := int(l.GetSourceIndex()); i < 0 || i >= len(def.Source.Infos) {
				return fmt.Errorf("%w: a step comes from file %d of %d", ErrInvalid, i, len(def.Source.Infos))
			}
		}
	}
	if vs, err = parse(def); err != nil { // assembling has changed them
		return err
	}
	for _, v := range vs[:len(vs)-1] {
		if reason := unfit(v); reason != "" {
			return &UnfitError{Step: v.meta.GetDescription()[keyName], Reason: reason}
		}
	}
	return nil
}

// terminal returns what a definition results in, and its other vertices.
func terminal(vs []*vertex) (*pb.Input, []*vertex, error) {
	if len(vs) < 2 {
		return nil, nil, fmt.Errorf("%w: %d vertices", ErrInvalid, len(vs))
	}
	last := vs[len(vs)-1].op
	if last.GetOp() != nil || len(last.GetInputs()) != 1 {
		return nil, nil, fmt.Errorf("%w: it does not end with its result", ErrInvalid)
	}
	return last.Inputs[0], vs[:len(vs)-1], nil
}

// unfit says what is wrong with one vertex, "" if nothing is.
func unfit(v *vertex) string {
	if v.meta.GetIgnoreCache() {
		return "its cache is ignored"
	}
	switch op := v.op.GetOp().(type) {
	case *pb.Op_Source:
		if reason := unpinned(op.Source); reason != "" {
			return reason
		}
		return credentials(op.Source)
	case *pb.Op_Exec:
		return unfitExec(op.Exec)
	case *pb.Op_File:
		for _, a := range op.File.GetActions() {
			if LooksSecret(string(a.GetMkfile().GetData())) {
				return "a file in the Dockerfile has what looks like a token"
			}
		}
		return ""
	case *pb.Op_Merge, *pb.Op_Diff:
		return ""
	default:
		return fmt.Sprintf("operation %T is unknown to this version", op)
	}
}

// unfitExec says what is wrong with a step that runs something. What it may do
// beyond others (security.insecure, network.host, devices) is not asked here:
// the daemon asks it of every definition that is solved, with what the build
// that solves it was granted.
func unfitExec(exec *pb.ExecOp) string {
	meta := exec.GetMeta()
	if meta.GetProxyEnv() != nil {
		return "it has proxy settings"
	}
	for _, m := range exec.GetMounts() {
		switch m.GetMountType() {
		case pb.MountType_BIND, pb.MountType_CACHE, pb.MountType_TMPFS, pb.MountType_SECRET, pb.MountType_SSH:
		default:
			return fmt.Sprintf("a mount of type %d is unknown to this version", m.GetMountType())
		}
	}
	for _, env := range meta.GetEnv() {
		if name, value, _ := strings.Cut(env, "="); LooksSecret(value) {
			return "the value of " + name + " looks like a token, which a secret mount would keep out of the record"
		}
	}
	for _, arg := range meta.GetArgs() {
		if LooksSecret(arg) {
			return "its command has what looks like a token, which a secret mount would keep out of the record"
		}
	}
	return ""
}

// token matches what the services that give them out have made easy to
// recognise: tokens of GitHub, GitLab, AWS, Slack, npm, PyPI, Docker and Google,
// signed web tokens, and private keys.
var token = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}` +
		`|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|xox[abprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}` +
		`|dckr_pat_[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{35}|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.` +
		`|-----BEGIN [A-Z ]*PRIVATE KEY-----`)
})

// LooksSecret reports whether a text has in it what is a token by its looks.
func LooksSecret(text string) bool { return token().MatchString(text) }

// HideSecrets returns a text to be shown, with what LooksSecret finds left out.
func HideSecrets(text string) string { return token().ReplaceAllString(text, "…") }

// credentials says that a source names a user with its address, "" if it does
// not. Over ssh a user is part of the address and no secret.
func credentials(src *pb.SourceOp) string {
	urls := []string{src.GetIdentifier()}
	for _, v := range src.GetAttrs() {
		urls = append(urls, v)
	}
	for _, u := range urls {
		scheme, rest, _ := strings.Cut(u, "://")
		authority, _, _ := strings.Cut(rest, "/")
		user, _, found := strings.Cut(authority, "@")
		switch scheme {
		case srctypes.HTTPScheme, srctypes.HTTPSScheme:
		case srctypes.GitScheme, "ssh":
			found = found && strings.Contains(user, ":")
		default:
			continue
		}
		if found || LooksSecret(u) {
			return "an address with credentials in it"
		}
	}
	return ""
}

// commit is the full name of a git commit.
var commit = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`) })

// unpinned says why a source may be another one tomorrow, "" if it cannot.
func unpinned(src *pb.SourceOp) string {
	scheme, rest, _ := strings.Cut(src.GetIdentifier(), "://")
	switch scheme {
	case srctypes.DockerImageScheme, srctypes.DockerImageBlobScheme:
		ref, err := reference.ParseNormalizedNamed(rest)
		if _, ok := ref.(reference.Canonical); err != nil || !ok {
			return "an image without a digest, " + rest
		}
	case srctypes.GitScheme:
		_, fragment, _ := strings.Cut(rest, "#")
		ref, _, _ := strings.Cut(fragment, ":")
		if !commit().MatchString(ref) && !commit().MatchString(src.Attrs[pb.AttrGitChecksum]) {
			return "a git repository without a commit"
		}
	case srctypes.HTTPScheme, srctypes.HTTPSScheme:
		if src.Attrs[pb.AttrHTTPChecksum] == "" {
			return "a file from the network without a checksum"
		}
	case srctypes.LocalScheme:
		return "files of the user's session"
	case srctypes.OCIScheme, srctypes.OCIBlobScheme:
		return "an image of the user's session"
	default:
		return "a source of scheme " + scheme + ", which is unknown to this version"
	}
	return ""
}
