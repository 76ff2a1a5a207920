package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// resultKey starts the key of what a name was built as, and namesKey is
	// that of the list of names. No image's name has a space.
	resultKey = "result "
	namesKey  = "results"

	// resultVersion is the version of the results that this package writes.
	resultVersion = 1
)

// Result is what a name was last built as.
type Result struct {
	// Version is the version of the format.
	Version int `json:"version"`
	// Serial says which of two results is the newer.
	Serial uint64 `json:"serial"`
	// Built is when it was recorded.
	Built time.Time `json:"built"`
	// Dockerfile is the name of the file that it was built from.
	Dockerfile string `json:"dockerfile,omitempty"`
	// Platforms holds one build for each platform, keyed by platforms.FormatAll
	// of the normalised platform.
	Platforms map[string]Build `json:"platforms"`
	// From holds, for the name itself (under "") and for each result that it is
	// made from, directly or not, what results that is made from.
	From map[string][]string `json:"from,omitempty"`
	// Layers holds the number of layers of each image it is made from whose
	// layers were on the builder, by reference and platform.
	Layers map[string]int `json:"layers,omitempty"`
}

// Build is a result for one platform.
type Build struct {
	// Definition is the marshalled LLB definition.
	Definition []byte `json:"-"`
	// Config is the image config.
	Config json.RawMessage `json:"config"`
	// Size is the length of Definition, in bytes.
	Size int `json:"size"`
}

// Same reports whether r and o say the same of a name, whenever they were
// recorded. Layers that only r knows of make no difference.
func (r Result) Same(o Result) bool {
	r.Version, r.Serial, r.Built = o.Version, o.Serial, o.Built
	for image, n := range o.Layers {
		if r.Layers[image] != n {
			return false
		}
	}
	r.Layers = o.Layers
	a, errA := r.encode()
	b, errB := o.encode()
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// encode returns a line of JSON and behind it the definitions, in the order of
// their platforms.
func (r Result) encode() ([]byte, error) {
	r.Platforms = maps.Clone(r.Platforms)
	for p, b := range r.Platforms {
		b.Size = len(b.Definition)
		r.Platforms[p] = b
	}
	dt, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	dt = append(dt, '\n')
	for _, p := range slices.Sorted(maps.Keys(r.Platforms)) {
		dt = append(dt, r.Platforms[p].Definition...)
	}
	return dt, nil
}

// decodeResult is the inverse of encode and toValue. Every value that is not a whole
// result of this version is an error.
func decodeResult(v string) (*Result, error) {
	dt, err := fromValue(v)
	if err != nil {
		return nil, err
	}
	head, rest, _ := bytes.Cut(dt, []byte("\n"))
	var r Result
	if err := json.Unmarshal(head, &r); err != nil {
		return nil, fmt.Errorf("ledger value: %w", err)
	}
	if r.Version != resultVersion {
		return nil, fmt.Errorf("ledger value: version %d, want %d", r.Version, resultVersion)
	}
	for _, p := range slices.Sorted(maps.Keys(r.Platforms)) {
		b := r.Platforms[p]
		if b.Size < 0 || b.Size > len(rest) {
			return nil, fmt.Errorf("ledger value: the definition for %s is cut off", p)
		}
		b.Definition, rest = rest[:b.Size:b.Size], rest[b.Size:]
		r.Platforms[p] = b
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("ledger value: %d bytes too many", len(rest))
	}
	return &r, nil
}

// newest returns the newest result of a chain's values, nil if there is none.
// The error says that some could not be understood.
func newest(values []string) (*Result, error) {
	var last *Result
	var errs []error
	for _, v := range values {
		r, err := decodeResult(v)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if last == nil || r.Serial > last.Serial {
			last = r
		}
	}
	return last, errors.Join(errs...)
}

// Result returns what name was last built as, nil if it never was. A value that
// cannot be understood is an error, whatever else there is; the caller treats it
// as absent.
func (l *Ledger) Result(ctx context.Context, name string) (*Result, error) {
	c := l.chain(resultKey + name)
	if err := c.read(ctx, 1); err != nil {
		return nil, err
	}
	r, err := newest(c.values)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Recording is what is known of a name that a build will record, see Expect.
type Recording struct {
	ledger *Ledger
	name   string
	done   sync.WaitGroup
	chain  *chain
	names  *chain
	err    error // of reading them
}

// Expect reads what is known of a name, in the background: by the time that the
// build has succeeded, Record knows whether there is something to write.
func (l *Ledger) Expect(ctx context.Context, name string) *Recording {
	r := &Recording{ledger: l, name: name, chain: l.chain(resultKey + name), names: l.chain(namesKey)}
	var errs [2]error
	var both sync.WaitGroup
	both.Go(func() { errs[0] = r.chain.read(ctx, 2) })
	both.Go(func() { errs[1] = r.names.read(ctx, 2) })
	r.done.Go(func() {
		both.Wait()
		r.err = errors.Join(errs[0], errs[1])
	})
	return r
}

// Stands reports whether res is already what is known of the name, so that there
// is nothing to write.
func (r *Recording) Stands(res Result) bool {
	r.done.Wait()
	if r.err != nil {
		return false
	}
	last, _ := newest(r.chain.values)
	return last != nil && last.Same(res) && slices.Contains(listed(r.names.values), r.name)
}

// Write records res as what the name was built as, in the place of all that was.
// ErrTooLarge means that nothing was written.
func (r *Recording) Write(ctx context.Context, res Result) error {
	r.done.Wait()
	res.Version = resultVersion
	if _, err := res.value(); err != nil {
		return err
	}
	// What was read when the build began may be old. The list comes first: it
	// has one place for all names, and a build that still has something to do
	// holds its place until others have seen it.
	if err := r.ledger.list(ctx, r.name); err != nil {
		return fmt.Errorf("list of names: %w", err)
	}
	return r.ledger.chain(resultKey+r.name).write(ctx, func(v string) {
		// What cannot be understood is older.
		if o, err := decodeResult(v); err == nil {
			res.Serial = max(res.Serial, o.Serial+1)
		}
	}, res.value)
}

// value returns what stands for r in a place.
func (r *Result) value() (string, error) {
	dt, err := r.encode()
	if err != nil {
		return "", err
	}
	return toValue(dt)
}

// names is the value of the list's places: the list is all that they hold.
type names struct {
	Version int      `json:"version"`
	Names   []string `json:"names"`
}

// listed returns the names in values, sorted. A value that cannot be understood
// adds none.
func listed(values []string) []string {
	var all []string
	for _, v := range values {
		var n names
		if dt, err := fromValue(v); err == nil && json.Unmarshal(dt, &n) == nil && n.Version == resultVersion {
			all = append(all, n.Names...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// list adds a name to the list, if it is not there.
func (l *Ledger) list(ctx context.Context, name string) error {
	c := l.chain(namesKey)
	if err := c.read(ctx, 1); err != nil {
		return err
	}
	if slices.Contains(listed(c.values), name) {
		return nil
	}
	all := []string{name}
	return c.write(ctx, func(v string) { all = listedWith(all, v) }, func() (string, error) {
		dt, err := json.Marshal(names{resultVersion, all})
		if err != nil {
			return "", err
		}
		return toValue(dt)
	})
}

func listedWith(all []string, v string) []string {
	all = append(all, listed([]string{v})...)
	slices.Sort(all)
	return slices.Compact(all)
}

// Any reports whether any name was ever recorded on this builder, with one read.
// It is safe to look for no result where there is none: the list is written
// first, and no write of it ever leaves it empty.
func (l *Ledger) Any(ctx context.Context) (bool, error) {
	v, err := l.get(ctx, namesKey, "")
	return v != "", err
}

// Names returns the names that were ever built on this builder, sorted. Some may
// be forgotten by now.
func (l *Ledger) Names(ctx context.Context) ([]string, error) {
	c := l.chain(namesKey)
	if err := c.read(ctx, 1); err != nil {
		return nil, err
	}
	return listed(c.values), nil
}

// Path returns how r, the result of name, was made from the result of another:
// the names from the first to the last. It is nil if it was not.
func (r Result) Path(name, other string) []string {
	return path(r.From, "", name, other, map[string]bool{})
}

// path follows from at, which is called name.
func path(from map[string][]string, at, name, other string, seen map[string]bool) []string {
	for _, next := range from[at] {
		if next == other {
			return []string{name, next}
		}
		if seen[next] {
			continue
		}
		seen[next] = true
		if rest := path(from, next, next, other, seen); rest != nil {
			return append([]string{name}, rest...)
		}
	}
	return nil
}
