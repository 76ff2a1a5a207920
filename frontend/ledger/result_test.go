package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/org/localfront/internal/fakegateway"
)

const foo = "docker.io/library/foo:latest"

// result returns a result that what tells from others.
func result(what string) Result {
	return Result{Built: noon, Dockerfile: "Dockerfile.foo", Platforms: map[string]Build{
		"linux/amd64": {Definition: []byte("\x00amd64 " + what), Config: json.RawMessage(`{"os":"linux"}`)},
		"linux/arm64": {Definition: []byte("arm64\n" + what), Config: json.RawMessage(`{}`)},
	}, From: map[string][]string{"": {"base"}}, Layers: map[string]int{"alpine linux/amd64": 1}}
}

func record(t *testing.T, l *Ledger, name, what string) {
	t.Helper()
	r := l.Expect(t.Context(), name)
	if err := r.Write(t.Context(), result(what)); err != nil {
		t.Fatal(err)
	}
}

// recorded records in a build that has ended.
func recorded(t *testing.T, b *fakegateway.Builder, name, what string) {
	t.Helper()
	l, end := start(t, b)
	defer end()
	record(t, l, name, what)
}

// builtAs returns what tells the result of name from others, "" if there is none.
func builtAs(t *testing.T, l *Ledger, name string) string {
	t.Helper()
	r, err := l.Result(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return ""
	}
	what := strings.TrimPrefix(string(r.Platforms["linux/amd64"].Definition), "\x00amd64 ")
	if !r.Same(result(what)) {
		t.Errorf("%s: half of another result: %+v", name, r)
	}
	return what
}

func is(t *testing.T, l *Ledger, name, want string) {
	t.Helper()
	if got := builtAs(t, l, name); got != want {
		t.Errorf("%s was built as %q, want %q", name, got, want)
	}
}

func TestResultIsWhatWasRecordedLast(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	is(t, open(t, b), foo, "")
	recorded(t, b, foo, "one")
	recorded(t, b, foo, "two")
	is(t, open(t, b), foo, "two")
	is(t, open(t, b), "docker.io/library/bar:latest", "")
}

// An unchanged record costs cached reads only.
func TestUnchangedResultIsNotWritten(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	recorded(t, b, foo, "one")
	stands := func(what string) bool {
		l, end := start(t, b)
		defer end()
		return l.Expect(t.Context(), foo).Stands(result(what))
	}
	stands("one") // reads the places behind for the first time
	b.ClearLog()
	if !stands("one") || stands("two") {
		t.Errorf("one stands: %v, two stands: %v", stands("one"), stands("two"))
	}
	if c := b.Containers(); len(c) > 0 {
		t.Errorf("containers: %q", c)
	}
	later := result("one")
	later.Built, later.Serial = later.Built.Add(1), 7
	if !later.Same(result("one")) {
		t.Error("the time alone makes another result")
	}
}

// While a build runs that recorded a name, no other can write the same place:
// the builder merges it into that build's. So too while a build runs that read
// it meanwhile.
func TestRecordPastBuildsThatRun(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	exporting := open(t, b)
	record(t, exporting, foo, "one")
	is(t, open(t, b), foo, "one")
	recorded(t, b, foo, "two")
	is(t, open(t, b), foo, "two")
	is(t, exporting, foo, "two")
	second := open(t, b)
	record(t, second, foo, "three")
	record(t, second, foo, "four")
	is(t, open(t, b), foo, "four")
	recorded(t, b, foo, "five")
	is(t, open(t, b), foo, "five")
}

// What was recorded in a later place is older than what is recorded after it in
// the first, once that is free.
func TestFirstPlaceIsUsedAgain(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	l, end := start(t, b)
	record(t, l, foo, "one")
	recorded(t, b, foo, "two")
	end()
	for i := range 5 {
		recorded(t, b, foo, fmt.Sprint(i))
		l, end := start(t, b)
		is(t, l, foo, fmt.Sprint(i))
		end()
	}
	c := open(t, b).chain(resultKey + foo)
	if err := c.read(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := len(c.values); n != 2 {
		t.Errorf("the chain has %d places, want 2", n)
	}
}

// A thousand builds with any overlap: whoever starts to read once a record is
// written gets it or a newer one, whole, and at the end each name is what was
// recorded last.
func TestAnyOverlap(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 2))
			b := fakegateway.NewBuilder()
			last := map[string]string{}
			type running struct {
				l   *Ledger
				end func()
			}
			var builds []running
			for i := range 60 {
				switch r.IntN(4) {
				case 0: // a build begins
					l, end := start(t, b)
					builds = append(builds, running{l, end})
				case 1: // one ends
					if n := len(builds); n > 0 {
						k := r.IntN(n)
						builds[k].end()
						builds = slices.Delete(builds, k, k+1)
					}
				default:
					if len(builds) == 0 {
						continue
					}
					l, name := builds[r.IntN(len(builds))].l, fmt.Sprintf("docker.io/library/n%d:latest", r.IntN(2))
					if r.IntN(2) == 0 {
						record(t, l, name, fmt.Sprint(i))
						last[name] = fmt.Sprint(i)
					}
					is(t, l, name, last[name])
				}
			}
			for _, r := range builds {
				r.end()
			}
			for name, want := range last {
				is(t, open(t, b), name, want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	check := func(want ...string) {
		t.Helper()
		got, err := open(t, b).Names(t.Context())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	check()
	recorded(t, b, "b", "1")
	check("b")
	exporting := open(t, b)
	record(t, exporting, "a", "1")
	record(t, exporting, "b", "2")
	recorded(t, b, "c", "1")
	record(t, open(t, b), "d", "1")
	check("a", "b", "c", "d")
}

// Builds of many names at the same moment, and readers of each.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			l, end := start(t, b)
			defer end()
			record(t, l, fmt.Sprint("n", i%5), fmt.Sprint(i))
		})
		wg.Go(func() {
			l, end := start(t, b)
			defer end()
			builtAs(t, l, fmt.Sprint("n", i%5))
		})
	}
	wg.Wait()
	want := []string{"n0", "n1", "n2", "n3", "n4"}
	for _, n := range want {
		if builtAs(t, open(t, b), n) == "" {
			t.Errorf("%s is lost", n)
		}
		// The list has no name that was new at the same moment as another, until
		// it is recorded again.
		recorded(t, b, n, "again")
	}
	if got, err := open(t, b).Names(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("names %q, %v; want %q", got, err, want)
	}
}

func TestResultTooLarge(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	recorded(t, b, foo, "one")
	large := result("large")
	noise := make([]byte, valueLimit)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	large.Platforms["linux/amd64"] = Build{Definition: noise}
	r := open(t, b).Expect(t.Context(), foo)
	if err := r.Write(t.Context(), large); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	is(t, open(t, b), foo, "one")
}

func TestDecodeWhatIsNoResult(t *testing.T) {
	t.Parallel()
	r := result("x")
	r.Version = resultVersion
	dt, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string][]byte{
		"cut off":           dt[:len(dt)-1],
		"too long":          append(slices.Clone(dt), 'x'),
		"half a head":       dt[:20],
		"no JSON":           []byte("x"),
		"a newer version":   []byte(strings.Replace(string(dt), `"version":1`, `"version":2`, 1)),
		"a negative length": []byte(`{"version":1,"platforms":{"a":{"size":-1}}}` + "\n"),
		"a memory":          []byte(`{"version":1,"image":{}`),
	} {
		text, err := toValue(v)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeResult(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	text, err := toValue(dt)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeResult(text)
	if err != nil || !got.Same(r) {
		t.Errorf("%v\n%s", err, cmp.Diff(&r, got))
	}
}

// A result that cannot be understood is an error for who reads it, and is
// replaced by who records.
func TestGarbledResult(t *testing.T) {
	t.Parallel()
	b := fakegateway.NewBuilder()
	l, end := start(t, b)
	if _, err := l.get(t.Context(), resultKey+foo, "garbage"); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := open(t, b).Result(t.Context(), foo); err == nil {
		t.Error("no error")
	}
	recorded(t, b, foo, "one")
	is(t, open(t, b), foo, "one")
}

func TestResultFails(t *testing.T) {
	t.Parallel()
	l := open(t, fakegateway.NewBuilder())
	l.solver = hung{}
	gone := errors.New("the user has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := l.Result(ctx, foo); !errors.Is(err, gone) {
		t.Errorf("result: %v", err)
	}
	if _, err := l.Names(ctx); !errors.Is(err, gone) {
		t.Errorf("names: %v", err)
	}
	r := l.Expect(ctx, foo)
	if r.Stands(result("one")) {
		t.Error("what could not be read stands")
	}
	if err := r.Write(ctx, result("one")); !errors.Is(err, gone) {
		t.Errorf("record: %v", err)
	}
}
