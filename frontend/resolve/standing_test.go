package resolve

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/lockfile"
)

// locking returns a lock that pins alpine to was.
func locking(context.Context) (*lockfile.File, error) {
	f := lockfile.New(lockfile.Default)
	f.Put(lockfile.Entry{Key: lockfile.Key{Kind: lockfile.Image, Name: alpine}, Value: was.String()})
	return f, nil
}

// pinnedHere is a memory of the digest was for amd64, with its layers here.
func pinnedHere() memory {
	e := remembering(time.Hour, ledger.Here).entries[alpine]
	return memory{entries: map[string]ledger.Entry{"docker.io/library/alpine@" + was.String(): e}}
}

var hourAgo = now.Add(-time.Hour)

// standings are names, what is known of them, and how they stand.
var standings = []struct {
	name    string
	ask     string // alpine:3.20 if empty
	query   Query  // for amd64 if empty
	mem     memory
	results results
	lock    Lock
	wreck   func(b *builder)
	calls   []string
	want    Standing
}{
	{name: "nothing is known", want: Standing{Who: ByRegistry}},
	{name: "nothing is known, on the docker driver", query: Query{Mode: Local}, want: Standing{Who: ByStore}},
	{name: "only a build here could have it", ask: "localhost/foo", want: Standing{Who: ByNobody}},
	{
		name: "memory", mem: remembering(time.Hour, ledger.Here),
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByMemory, Digest: was, Since: hourAgo, Metadata: true, Layers: true},
	},
	{
		name: "memory on the docker driver, which is asked first", query: Query{Mode: Local}, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByStore, Digest: was, Since: hourAgo, Metadata: true, Layers: true},
	},
	{
		name: "memory with --pull", query: Query{Mode: Pull}, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByRegistry, Digest: was, Since: hourAgo, Metadata: true, Layers: true},
	},
	{
		name: "memory, layers lost", mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.layers = nil },
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByMemory, Digest: was, Since: hourAgo, Metadata: true},
	},
	{
		name: "memory, layers never seen here", mem: remembering(time.Hour, ledger.Unknown),
		calls: []string{"metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByMemory, Digest: was, Since: hourAgo, Metadata: true},
	},
	{
		name: "memory, content gone", mem: remembering(time.Hour, ledger.Here), wreck: func(b *builder) { b.here = nil },
		calls: []string{"metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByMemory, Digest: was, Since: hourAgo},
	},
	{
		name: "memory of another platform", query: Query{Platform: arm64}, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS arm64"},
		want:  Standing{Who: ByMemory, Digest: was, Since: hourAgo},
	},
	{
		name: "a source policy governs the name", mem: memory{entries: remembering(time.Hour, ledger.Here).entries, governed: true},
		want: Standing{Who: ByRegistry},
	},
	{
		name: "its digest", ask: "alpine@" + is.String(), calls: []string{"metadata alpine@IS amd64"},
		want: Standing{Who: ByDigest, Digest: is},
	},
	{
		name: "its digest, and it is here", ask: "alpine:3.20@" + was.String(), mem: pinnedHere(),
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByDigest, Digest: was, Metadata: true, Layers: true},
	},
	{
		name: "the lock", lock: locking, mem: pinnedHere(),
		calls: []string{"layers alpine:3.20@WAS amd64", "metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByLock, Digest: was, Metadata: true, Layers: true},
	},
	{
		name: "the lock, whatever is remembered of the tag", lock: locking, mem: remembering(time.Hour, ledger.Here),
		calls: []string{"metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByLock, Digest: was, Metadata: true},
	},
	{
		name: "the lock, whatever was built", lock: locking, results: results{alpine: built("linux/amd64")}, query: Query{Mode: Local}, wreck: func(b *builder) { b.here = nil },
		calls: []string{"metadata alpine:3.20@WAS amd64"},
		want:  Standing{Who: ByLock, Digest: was},
	},
	{
		name: "the lock under a source policy", lock: locking, mem: memory{governed: true},
		want: Standing{Who: ByLock},
	},
	{name: "a lock of other names", ask: "busybox", lock: locking, want: Standing{Who: ByRegistry}},
	{
		name: "a named result", results: results{alpine: built("linux/amd64")}, mem: remembering(time.Hour, ledger.Here),
		want: Standing{Who: ByResult, Since: now.Add(-2 * time.Minute), Metadata: true, Layers: true},
	},
	{
		name: "a named result of another platform", query: Query{Platform: arm64}, results: results{alpine: built("linux/amd64")},
		want: Standing{Who: ByResult, Since: now.Add(-2 * time.Minute)},
	},
	{
		name: "a named result under localhost/", ask: "localhost/foo", results: results{"localhost/foo:latest": built("linux/amd64")},
		want: Standing{Who: ByResult, Since: now.Add(-2 * time.Minute), Metadata: true, Layers: true},
	},
}

// How names stand, without a question to a registry.
func TestStanding(t *testing.T) {
	t.Parallel()
	for _, tt := range standings {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := &builder{here: set(at(was, amd64)), layers: set(at(was, amd64)), tag: is, has: set(at(is, amd64))}
			if tt.wreck != nil {
				tt.wreck(b)
			}
			q := tt.query
			if tt.ask == "" {
				tt.ask = alpine
			}
			if q.Platform.OS == "" {
				q.Platform = amd64
			}
			q.Name = parsed(tt.ask)
			r := New(b, tt.mem, tt.results, Options{Offline: true, Layers: true, Lock: tt.lock}, func() time.Time { return now })
			got, err := r.Standing(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("standing (-want +got):\n%s", diff)
			}
			slices.Sort(b.calls)
			if diff := cmp.Diff(tt.calls, b.calls); diff != "" {
				t.Errorf("asked of the builder (-want +got):\n%s", diff)
			}
			if len(b.warns) > 0 || len(r.Learned()) > 0 {
				t.Errorf("looking has warned %q and learned %v", b.warns, r.Learned())
			}
		})
	}
}

func TestStandingOfABadLock(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad lock")
	r := New(&builder{}, memory{}, results{}, Options{Lock: func(context.Context) (*lockfile.File, error) { return nil, bad }}, func() time.Time { return now })
	if s, err := r.Standing(t.Context(), Query{Name: parsed(alpine), Platform: amd64}); !errors.Is(err, bad) {
		t.Errorf("standing %v, error %v", s, err)
	}
}
