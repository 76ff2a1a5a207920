package lockfile

import (
	"errors"
	"fmt"
	"strings"
)

// What can be wrong with a lock. An Error wraps one of them.
var (
	ErrFile       = errors.New("not a file")
	ErrConflict   = errors.New("merge conflict")
	ErrVersion    = errors.New("unknown version")
	ErrKey        = errors.New("unknown key")
	ErrDuplicate  = errors.New("named twice")
	ErrDockerfile = errors.New("a Dockerfile")
	ErrSize       = errors.New("too large")
	ErrText       = errors.New("not UTF-8")
	ErrSyntax     = errors.New("not TOML")
	ErrName       = errors.New("no such source")
	ErrValue      = errors.New("no such digest")
)

// ErrEmpty is returned for a file without a byte, such as `> Dockerfile.lock`
// leaves before the build reads it. It counts as absent.
var ErrEmpty = errors.New("the file is empty")

// Error says what is wrong with a lock, where, and what to do.
type Error struct {
	// File is its name and Data what is in it.
	File string
	Data []byte
	// Line is where, 0 if it is the whole file.
	Line int
	// Kind is one of this package's errors.
	Kind error
	// Reason says what is wrong, Remedy what to do.
	Reason, Remedy string
}

// Error names the file and the line, and says what to do.
func (e *Error) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return where + ": " + e.Reason + ": " + e.Remedy
}

// Unwrap returns what kind of fault it is.
func (e *Error) Unwrap() error { return e.Kind }

// For returns e with its commands as they are for the Dockerfile whose own lock
// has the given name, which may be another than the lock that was read.
func (e *Error) For(own string) *Error {
	out := *e
	for _, what := range []string{"update", "add"} {
		out.Remedy = strings.ReplaceAll(out.Remedy, Command(e.File, what), Command(own, what))
	}
	return &out
}

// NotAFile is the error for a lock that cannot be read, which reason says why.
func NotAFile(name, reason string) error {
	return &Error{File: name, Kind: ErrFile, Reason: reason, Remedy: "remove it, then: " + Command(name, "update")}
}
