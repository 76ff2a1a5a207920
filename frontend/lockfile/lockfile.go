// Package lockfile is the grammar of Dockerfile.lock: parsing with positions,
// checking, changing and writing it. It knows nothing of BuildKit, of builds
// and of registries; what a pin means is decided elsewhere (package resolve).
//
// A lock is a small part of TOML: a version and one table for each source.
//
//	version = 1
//
//	[image."docker.io/library/alpine:3.20"]
//	digest = "sha256:…"
//
// It is written sorted and without dates, so that the same pins are always the
// same bytes and git merges two branches that pin different sources.
package lockfile

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	// Version is the version of the format that this package reads and writes.
	Version = 1
	// MaxSize is the size in bytes that a lock may have.
	MaxSize = 1 << 20
	// Default is the name of the lock that serves a whole folder.
	Default = "Dockerfile.lock"
	// Suffix makes the name of a Dockerfile's own lock of the Dockerfile's.
	Suffix = ".lock"
)

// Kind is the kind of a source.
type Kind string

// The kinds of sources, as their tables are called.
const (
	Image Kind = "image"
	Git   Kind = "git"
	HTTP  Kind = "http"
)

// kinds are all kinds in the order that they are written in.
var kinds = []Kind{Image, Git, HTTP}

// field returns the name of the one key that a table of the kind has.
func (k Kind) field() string {
	if k == Git {
		return "commit"
	}
	return "digest"
}

// Key names a source. Use NewKey, which gives every source one spelling.
type Key struct {
	Kind Kind
	Name string
}

// Entry is one pin.
type Entry struct {
	Key
	// Value is the digest, or the commit of a git repository.
	Value string
	// Line is where its table begins, 0 if it was not read from a file.
	Line int
}

// File is a lock.
type File struct {
	// Name is the name of the file, without its folder.
	Name string
	// Data is what it was parsed from.
	Data []byte

	entries map[Key]Entry
}

// New returns a lock without entries.
func New(name string) *File { return &File{Name: name, entries: map[Key]Entry{}} }

// Names returns the names that the lock of a Dockerfile may have, the one that
// counts first.
func Names(dockerfile string) []string {
	if own := dockerfile + Suffix; own != Default {
		return []string{own, Default}
	}
	return []string{Default}
}

// Get returns the pin of a source.
func (f *File) Get(k Key) (Entry, bool) {
	if f == nil {
		return Entry{}, false
	}
	e, ok := f.entries[k]
	return e, ok
}

// Put adds a pin, or replaces the one of the same source.
func (f *File) Put(e Entry) { f.entries[e.Key] = e }

// Remove removes the pin of a source.
func (f *File) Remove(k Key) { delete(f.entries, k) }

// Entries returns all pins in the order of the file.
func (f *File) Entries() []Entry {
	if f == nil {
		return nil
	}
	all := make([]Entry, 0, len(f.entries))
	for _, e := range f.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return Compare(a.Key, b.Key) })
	return all
}

// Compare orders keys as they are written: by kind, then by name.
func Compare(a, b Key) int {
	return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Name, b.Name))
}

// Format returns the bytes of the lock. The same pins are always the same
// bytes.
func (f *File) Format() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by localfront; commit this file.\n")
	fmt.Fprintf(&b, "# Refresh everything:  %s\n", Command(f.Name, "update"))
	fmt.Fprintf(&b, "version = %d\n", Version)
	for _, e := range f.Entries() {
		fmt.Fprintf(&b, "\n[%s.%s]\n%s = %s\n", e.Kind, quote(e.Name), e.Kind.field(), quote(e.Value))
	}
	return b.Bytes()
}

// Command returns the command that writes the lock of this name: all of it
// (update), what is missing (add), or single names. Flags stand before it.
func Command(name, what string, flags ...string) string {
	words := []string{"docker build"}
	if name != Default {
		words = append(words, "-f "+shellQuote(strings.TrimSuffix(name, Suffix)))
	}
	words = append(words, flags...)
	words = append(words, "--build-arg "+shellQuote("LOCALFRONT_LOCK="+what), "-o . .")
	return strings.Join(words, " ")
}

// Flag returns a flag of a command with its value quoted where a shell needs
// that.
func Flag(name, value string) string { return name + " " + shellQuote(value) }

// shellQuote quotes a word for a POSIX shell if it has to be.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// quote writes a basic string of TOML.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
