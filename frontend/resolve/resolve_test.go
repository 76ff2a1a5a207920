package resolve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/ledger"
)

const (
	alpine = "docker.io/library/alpine:3.20"
	day    = 24 * time.Hour
)

var (
	now    = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	amd64  = ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	arm64  = ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	was    = digest.FromString("was")
	is     = digest.FromString("is")
	config = []byte(`{"rootfs":{"diff_ids":["a","b"]}}`)

	errDown = errors.New("the registry is down")
)

// builder is a Builder that has some content and a registry.
type builder struct {
	here   map[string]bool         // metadata, by digest and platform
	layers map[string]bool         // layers, by digest and platform
	tag    digest.Digest           // what the registry has under alpine
	has    map[string]bool         // what the registry has, by digest and platform
	down   bool                    // the registry is down
	answer func(a *Answer)         // changes what is answered
	hold   func(name, arch string) // called when the registry is asked

	mu    sync.Mutex
	calls []string
	warns []string
}

func at(d digest.Digest, p ocispecs.Platform) string { return d.String() + " " + p.Architecture }

func (b *builder) call(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, shorten(fmt.Sprintf(format, args...)))
}

// shorten writes digests as people think of them.
func shorten(s string) string {
	return strings.NewReplacer(was.String(), "WAS", is.String(), "IS", "docker.io/library/", "").Replace(s)
}

func (b *builder) Metadata(_ context.Context, ref reference.Canonical, q Query, _ string) ([]byte, error) {
	b.call("metadata %s %s", ref, q.Platform.Architecture)
	if !b.here[at(ref.Digest(), q.Platform)] {
		return nil, errors.New("not found")
	}
	return config, nil
}

func (b *builder) Holds(_ context.Context, ref reference.Canonical, p ocispecs.Platform, layers int) bool {
	b.call("layers %s %s", ref, p.Architecture)
	return layers == 2 && b.layers[at(ref.Digest(), p)]
}

func (b *builder) Ask(_ context.Context, name reference.Named, q Query, _ string) (Answer, error) {
	b.call("ask %s %s", name, q.Platform.Architecture)
	if b.hold != nil {
		b.hold(name.String(), q.Platform.Architecture)
	}
	d := b.tag
	if c, ok := name.(reference.Canonical); ok {
		d = c.Digest()
	}
	switch {
	case b.down:
		return Answer{}, errDown
	case !b.has[at(d, q.Platform)]:
		return Answer{}, errors.New("not found")
	}
	a := Answer{Ref: name.String(), Digest: d, Config: config}
	if b.answer != nil {
		b.answer(&a)
	}
	return a, nil
}

func (b *builder) Show(_ context.Context, line string) { b.call("show %s", line) }

func (b *builder) Warn(_ context.Context, msg string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.warns = append(b.warns, shorten(msg))
}

// memory is a Memory with entries by key.
type memory struct {
	entries  map[string]ledger.Entry
	governed bool
}

func (m memory) Read(_ context.Context, key string, _ reference.Named) (ledger.Entry, bool) {
	return m.entries[key].Clone(), m.governed
}

func (m memory) Governed(context.Context, reference.Named) bool { return m.governed }

// remembering returns a memory in which alpine is was for amd64, so old, with
// its layers found here or not.
func remembering(age time.Duration, content ledger.Content) memory {
	return memory{entries: map[string]ledger.Entry{alpine: {Image: &ledger.Image{
		Digest: was, Resolved: now.Add(-age),
		Platforms: map[string]ledger.Platform{"linux/amd64": {Layers: 2, Content: content}},
	}}}}
}

// miscounted remembers alpine for amd64, with so many layers.
func miscounted(layers int) memory {
	m := remembering(time.Hour, ledger.Here)
	m.entries[alpine].Image.Platforms["linux/amd64"] = ledger.Platform{Layers: layers, Content: ledger.Here}
	return m
}

// results are Results by key.
type results map[string]*ledger.Result

func (r results) Result(_ context.Context, key string) *ledger.Result { return r[key] }

func (r results) Names(context.Context) []string { return slices.Sorted(maps.Keys(r)) }

func parsed(name string) reference.Named {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		panic(err)
	}
	return reference.TagNameOnly(n)
}

func set(keys ...string) map[string]bool {
	m := map[string]bool{}
	for _, k := range keys {
		m[k] = true
	}
	return m
}

// whoAnswers are names, what is known of them, and who answers.
var whoAnswers = []struct {
	name    string
	query   Query // alpine for amd64 if empty
	mem     memory
	results results
	opts    Options
	wreck   func(b *builder)
	calls   []string
	want    string // the reference
	err     string
	warns   []string
	held    bool
	learn   map[string]digest.Digest
}{
	{
		name: "nothing is known", calls: []string{"ask alpine:3.20 amd64"},
		want: "alpine:3.20@IS", learn: map[string]digest.Digest{alpine: is},
	},
	{
		name: "memory", mem: remembering(time.Hour, ledger.Here), opts: Options{Layers: true},
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  "alpine:3.20@WAS", held: true,
	},
	{
		name: "memory, for a lint", mem: remembering(time.Hour, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "memory, layers elsewhere", mem: remembering(time.Hour, ledger.Elsewhere), opts: Options{Layers: true},
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "memory, layers lost", mem: remembering(time.Hour, ledger.Here), opts: Options{Layers: true}, wreck: func(b *builder) { b.layers = nil },
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  "alpine:3.20@WAS", learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "memory, content gone", mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.here = nil },
		calls: []string{"metadata alpine:3.20@WAS amd64", "ask alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "memory, another platform", query: Query{Platform: arm64}, mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.has[at(was, arm64)] = true },
		calls: []string{"ask alpine:3.20@WAS arm64"}, want: "alpine:3.20@WAS", learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "memory without the platform", query: Query{Platform: arm64}, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"ask alpine:3.20@WAS arm64", "metadata alpine:3.20@WAS amd64", "ask alpine:3.20 arm64"},
		want:  "alpine:3.20@IS", learn: map[string]digest.Digest{alpine: is},
	},
	{
		name: "deleted", mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.here = nil; delete(b.has, at(was, amd64)) },
		calls: []string{"metadata alpine:3.20@WAS amd64", "ask alpine:3.20@WAS amd64", "ask alpine:3.20 amd64"},
		err:   "alpine:3.20 was resolved to WAS about an hour ago, which is gone from this builder and from the registry: build with --pull to resolve the name again: not found",
	},
	{
		name: "gone and the registry is down", mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.here = nil; b.down = true },
		calls: []string{"metadata alpine:3.20@WAS amd64", "ask alpine:3.20@WAS amd64", "ask alpine:3.20 amd64"},
		err:   "alpine:3.20 was resolved to WAS about an hour ago, its content is gone from this builder and the registry could not give it: try again when it can, or build with --pull: the registry is down",
	},
	{
		name: "the registry is down and nothing is known", wreck: func(b *builder) { b.down = true },
		calls: []string{"ask alpine:3.20 amd64"}, err: "the registry is down (and no build on this builder was named alpine:3.20: name one with name=alpine:3.20 on its # syntax= line or --build-arg LOCALFRONT_NAME=alpine:3.20)",
	},
	{
		name: "--pull", query: Query{Mode: Pull}, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20@IS", learn: map[string]digest.Digest{alpine: is},
	},
	{
		name: "--pull finds what is known", query: Query{Mode: Pull}, mem: remembering(time.Minute, ledger.Here), wreck: func(b *builder) { b.tag = was },
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "--pull and the registry is down", query: Query{Mode: Pull}, mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.down = true },
		calls: []string{"ask alpine:3.20 amd64"}, err: "the registry is down",
	},
	{
		name: "--pull offline", query: Query{Mode: Pull}, mem: remembering(time.Hour, ledger.Here), opts: Options{Offline: true},
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "fresh enough", mem: remembering(time.Hour, ledger.Here), opts: Options{MaxAge: 2 * time.Hour},
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "too old", mem: remembering(time.Hour, ledger.Here), opts: Options{MaxAge: time.Minute},
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20@IS", learn: map[string]digest.Digest{alpine: is},
	},
	{
		name: "too old and the registry is down", mem: remembering(time.Hour, ledger.Here), opts: Options{MaxAge: time.Minute}, wreck: func(b *builder) { b.down = true },
		calls: []string{"ask alpine:3.20 amd64", "metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
		warns: []string{"alpine:3.20: the registry could not answer, so the digest resolved about an hour ago is used although max-age is about a minute: the registry is down"},
	},
	{
		name: "too old, gone, and the registry is down", mem: remembering(time.Hour, ledger.Here), opts: Options{MaxAge: time.Minute}, wreck: func(b *builder) { b.down = true; b.here = nil },
		calls: []string{"ask alpine:3.20 amd64", "metadata alpine:3.20@WAS amd64", "ask alpine:3.20@WAS amd64", "ask alpine:3.20 amd64"},
		err:   "the registry is down",
	},
	{
		name: "29 days", mem: remembering(30*day-1, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "30 days", mem: remembering(30*day, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
		warns: []string{"alpine:3.20 was resolved 4 weeks ago: build with --pull to ask the registry again"},
	},
	{
		name: "a clock that is a little behind", mem: remembering(-9*time.Minute, ledger.Here), opts: Options{MaxAge: time.Minute},
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
	},
	{
		name: "dated in the future", mem: remembering(-time.Hour, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
		warns: []string{"alpine:3.20 was resolved at a time that is still to come: build with --pull to ask the registry again"},
	},
	{
		name: "dated in the future is older than any limit", mem: remembering(-time.Hour, ledger.Here), opts: Options{MaxAge: 365 * day}, wreck: func(b *builder) { b.tag = was },
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20@WAS", learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "--pull of what is dated in the future", query: Query{Mode: Pull}, mem: remembering(-365*day, ledger.Here), wreck: func(b *builder) { b.tag = was },
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20@WAS", learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "a wrong number of layers", mem: miscounted(7), opts: Options{Layers: true},
		calls: []string{"layers alpine:3.20@WAS amd64", "layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  "alpine:3.20@WAS", held: true, learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "offline and nobody has counted the layers", mem: miscounted(0), opts: Options{Layers: true, Offline: true},
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  "alpine:3.20@WAS", held: true, learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "offline", mem: remembering(time.Hour, ledger.Here), opts: Options{Offline: true, Layers: true}, wreck: func(b *builder) { b.down = true },
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS", held: true,
	},
	{
		name: "offline looks again for layers", mem: remembering(time.Hour, ledger.Elsewhere), opts: Options{Offline: true, Layers: true},
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS", held: true, learn: map[string]digest.Digest{alpine: was},
	},
	{
		name: "offline and unknown", opts: Options{Offline: true},
		err: "alpine:3.20 is not known on this builder and offline is set: build once without offline, or build where the name has been resolved before",
	},
	{
		name: "offline and gone", mem: remembering(time.Hour, ledger.Here), opts: Options{Offline: true}, wreck: func(b *builder) { b.here = nil },
		calls: []string{"metadata alpine:3.20@WAS amd64"},
		err:   "alpine:3.20 is remembered as WAS (about an hour old), but its content for linux/amd64 is not on this builder and offline is set: build once without offline",
	},
	{
		name: "offline under a policy", mem: memory{governed: true}, opts: Options{Offline: true},
		err: "a source policy of this build puts another image in the place of alpine:3.20 and offline is set: build without offline, or name that image in the Dockerfile",
	},
	{
		name: "a policy beats memory", mem: memory{entries: remembering(time.Hour, ledger.Here).entries, governed: true},
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20",
	},
	{
		name: "a policy converts on the way", wreck: func(b *builder) { b.answer = func(a *Answer) { a.Ref = "mirror.test/alpine:3.20" } },
		calls: []string{"ask alpine:3.20 amd64"}, want: "mirror.test/alpine:3.20",
	},
	{
		name: "an image store without digests", query: Query{Mode: Local}, wreck: func(b *builder) { b.answer = func(a *Answer) { a.Digest = "" } },
		calls: []string{"ask alpine:3.20 amd64"}, want: "alpine:3.20",
	},
	{
		name: "a digest", query: Query{Name: parsed(alpine + "@" + was.String())},
		calls: []string{"ask alpine:3.20@WAS amd64"}, want: "alpine:3.20@WAS",
		learn: map[string]digest.Digest{"docker.io/library/alpine@" + was.String(): was},
	},
	{
		name: "a digest offline", query: Query{Name: parsed("alpine@" + was.String())}, opts: Options{Offline: true},
		calls: []string{"metadata alpine@WAS amd64"}, want: "alpine@WAS",
	},
	{
		name: "a digest offline that is not here", query: Query{Name: parsed("alpine@" + is.String())}, opts: Options{Offline: true},
		calls: []string{"metadata alpine@IS amd64"}, err: "alpine@IS is not on this builder for linux/amd64 and offline is set: build once without offline",
	},
}

func TestWhoAnswers(t *testing.T) {
	t.Parallel()
	all := func() *builder {
		return &builder{
			here: set(at(was, amd64)), layers: set(at(was, amd64)),
			tag: is, has: set(at(was, amd64), at(is, amd64), at(is, arm64)),
		}
	}
	for _, tt := range whoAnswers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := all()
			if tt.wreck != nil {
				tt.wreck(b)
			}
			q := completed(tt.query)
			r := New(b, tt.mem, tt.results, tt.opts, func() time.Time { return now })
			a, err := r.Resolve(t.Context(), q)
			var text string
			if err != nil {
				text = shorten(err.Error())
			}
			if r.opts.Layers {
				slices.Sort(b.calls) // layers and metadata are asked for at once
			}
			diff(t, "calls", b.calls, tt.calls)
			diff(t, "reference", shorten(a.Ref), tt.want)
			diff(t, "error", text, tt.err)
			diff(t, "warnings", b.warns, tt.warns)
			learned := map[string]digest.Digest{}
			for key, e := range r.Learned() {
				learned[key] = e.Image.Digest
			}
			diff(t, "what is learned", learned, tt.learn)
			if ref, err := withDigest(q.Name, was); err != nil || r.Held(ref, amd64) != tt.held {
				t.Errorf("held: %v, want %v (%v)", !tt.held, tt.held, err)
			}
		})
	}
}

// completed is q for alpine and amd64 where it says nothing else.
func completed(q Query) Query {
	q.Step = "[internal]"
	if q.Name == nil {
		q.Name = parsed(alpine)
	}
	if q.Platform.OS == "" {
		q.Platform = amd64
	}
	return q
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"alpine":                              "docker.io/library/alpine:latest",
		"alpine:3.20":                         alpine,
		"ghcr.io/o/x:1":                       "ghcr.io/o/x:1",
		"alpine@" + was.String():              "docker.io/library/alpine@" + was.String(),
		"alpine:3.20@" + was.String():         "docker.io/library/alpine@" + was.String(),
		"localhost:5000/a/b:t@" + is.String(): "localhost:5000/a/b@" + is.String(),
	} {
		if got := Key(parsed(name)); got != want {
			t.Errorf("%s: key %s, want %s", name, got, want)
		}
	}
}

func TestWarnsOncePerName(t *testing.T) {
	t.Parallel()
	b := &builder{here: set(at(was, amd64))}
	r := New(b, remembering(365*day, ledger.Unknown), results{}, Options{}, func() time.Time { return now })
	for range 3 {
		if _, err := r.Resolve(t.Context(), Query{Name: parsed(alpine), Platform: amd64}); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.warns) != 1 {
		t.Errorf("warnings: %q, want one", b.warns)
	}
}

func TestLearnsEveryPlatform(t *testing.T) {
	t.Parallel()
	b := &builder{tag: is, has: set(at(is, amd64), at(is, arm64))}
	r := New(b, memory{}, results{}, Options{}, func() time.Time { return now })
	var wg sync.WaitGroup
	for _, p := range []ocispecs.Platform{amd64, arm64} {
		wg.Go(func() {
			if _, err := r.Resolve(t.Context(), Query{Name: parsed(alpine), Platform: p}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := map[string]ledger.Entry{alpine: {Image: &ledger.Image{Digest: is, Resolved: now, Platforms: map[string]ledger.Platform{
		"linux/amd64": {Layers: 2, NoTriggers: true}, "linux/arm64": {Layers: 2, NoTriggers: true},
	}}}}
	if d := cmp.Diff(want, r.Learned()); d != "" {
		t.Errorf("what is learned (-want +got):\n%s", d)
	}
}

// Both platforms of one build stand for one index: while the registry is asked
// because memory is too old, nobody may answer from memory.
func TestMaxAgeIsOneAnswerForAllPlatforms(t *testing.T) {
	t.Parallel()
	asked, done := make(chan struct{}), make(chan struct{})
	b := &builder{
		here: set(at(was, amd64), at(was, arm64)),
		tag:  is, has: set(at(is, amd64), at(is, arm64)),
	}
	b.hold = func(_, arch string) {
		if arch == "amd64" {
			close(asked)
			select {
			case <-done:
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	mem := remembering(time.Hour, ledger.Here)
	mem.entries[alpine].Image.Platforms["linux/arm64"] = ledger.Platform{Layers: 2}
	r := New(b, mem, results{}, Options{MaxAge: time.Minute}, func() time.Time { return now })
	refs := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	resolve := func(p ocispecs.Platform) {
		a, err := r.Resolve(t.Context(), Query{Name: parsed(alpine), Platform: p})
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		refs[p.Architecture] = shorten(a.Ref)
		mu.Unlock()
	}
	wg.Go(func() { resolve(amd64) })
	<-asked
	wg.Go(func() { resolve(arm64); close(done) })
	wg.Wait()
	if d := cmp.Diff(map[string]string{"amd64": "alpine:3.20@IS", "arm64": "alpine:3.20@IS"}, refs); d != "" {
		t.Errorf("references (-want +got):\n%s", d)
	}
}
