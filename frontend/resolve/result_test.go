package resolve

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"github.com/org/localfront/frontend/ledger"
)

const (
	fooKey   = "docker.io/library/foo:latest"
	localKey = "localhost/foo:latest"
)

// built is a result for some platforms, recorded two minutes ago.
func built(ps ...string) *ledger.Result {
	r := &ledger.Result{Built: now.Add(-2 * time.Minute), Platforms: map[string]ledger.Build{}}
	for _, p := range ps {
		r.Platforms[p] = ledger.Build{Definition: []byte("definition for " + p), Config: json.RawMessage(`{"for":"` + p + `"}`)}
	}
	return r
}

// made is a result that is made from others, given as name, name, …: each from
// the one after it.
func made(names ...string) *ledger.Result {
	r := built("linux/amd64")
	r.From = map[string][]string{}
	at := ""
	for _, n := range names {
		r.From[at] = []string{n}
		at = n
	}
	return r
}

const notThere = " (and no build on this builder was named foo: name one with name=foo on its # syntax= line or --build-arg LOCALFRONT_NAME=foo)"

// namedResults are names, what builds were given them, and who answers.
var namedResults = []struct {
	name    string
	ask     string // foo if empty
	query   Query
	results results
	mem     memory
	opts    Options
	down    bool
	calls   []string
	config  string
	err     string
}{
	{
		name: "a named result", results: results{fooKey: built("linux/amd64")},
		calls: []string{"show [internal] foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
	{
		name: "--pull does not matter", results: results{fooKey: built("linux/amd64")}, query: Query{Mode: Pull},
		calls: []string{"show [internal] foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
	{
		name: "nor does offline", results: results{fooKey: built("linux/amd64")}, opts: Options{Offline: true},
		calls: []string{"show [internal] foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
	{
		name: "memory is passed over", results: results{alpine: built("linux/amd64")}, ask: "alpine:3.20", mem: remembering(time.Hour, ledger.Here),
		calls: []string{"show [internal] alpine:3.20 named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
	{
		name: "another tag", results: results{fooKey: built("linux/amd64")}, ask: "foo:1", down: true,
		calls: []string{"ask foo:1 amd64"}, err: "the registry is down" + strings.ReplaceAll(notThere, "foo", "foo:1"),
	},
	{
		name: "a digest has no result", results: results{fooKey: built("linux/amd64")}, ask: "foo@" + was.String(), down: true,
		calls: []string{"ask foo@WAS amd64"}, err: "the registry is down",
	},
	{
		name: "a source policy governs the name", results: results{fooKey: built("linux/amd64")}, mem: memory{governed: true}, down: true,
		calls: []string{"ask foo:latest amd64"}, err: "the registry is down",
	},
	{
		name: "another platform", results: results{fooKey: built("linux/amd64", "linux/arm/v7")}, query: Query{Platform: arm64},
		err: "foo:latest was built on this builder for linux/amd64, linux/arm/v7, not for linux/arm64: build it with --platform linux/amd64,linux/arm/v7,linux/arm64",
	},
	{
		name: "another variant", results: results{fooKey: built("linux/arm/v6", "linux/arm/v7", "linux/amd64")},
		query: Query{Platform: platforms.MustParse("linux/arm/v8")},
		calls: []string{"show [internal] foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/arm/v7"}`,
	},
	{
		name: "one's own name", results: results{fooKey: built("linux/amd64")}, opts: Options{Own: []string{fooKey}}, down: true,
		calls: []string{"ask foo:latest amd64"}, err: "the registry is down" + notThere,
	},
	{
		name: "one's own local name", ask: "localhost/foo", opts: Options{Own: []string{localKey}},
		err: "a build named localhost/foo:latest cannot be made from localhost/foo:latest: give one of them another name",
	},
	{
		name: "a local name", ask: "localhost/foo", results: results{localKey: built("linux/amd64")},
		calls: []string{"show [internal] localhost/foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
	{
		name: "a local name that is not known", ask: "localhost/fob",
		results: results{localKey: built(), "docker.io/library/far:latest": built(), "localhost/foo:1": built()},
		err: "localhost/fob:latest is not known on this builder, and names under localhost/ are never asked of a registry (known are localhost/foo, localhost/foo:1, far): " +
			"build it with name=localhost/fob:latest on its # syntax= line or --build-arg LOCALFRONT_NAME=localhost/fob:latest",
	},
	{
		name: "a local name on a new builder", ask: "localhost/fob",
		err: "localhost/fob:latest is not known on this builder, and names under localhost/ are never asked of a registry (this builder has no named results): " +
			"build it with name=localhost/fob:latest on its # syntax= line or --build-arg LOCALFRONT_NAME=localhost/fob:latest",
	},
	{
		name: "a registry on this machine", ask: "localhost:5000/foo", down: true,
		calls: []string{"ask localhost:5000/foo:latest amd64"}, err: "the registry is down" + strings.ReplaceAll(notThere, "foo", "localhost:5000/foo"),
	},
	{
		name: "a short cycle", results: results{fooKey: made("docker.io/library/a:latest")}, opts: Options{Own: []string{"docker.io/library/a:latest"}},
		err: "named results in a cycle: a is made from foo, which was made from a: give one of them another name",
	},
	{
		name:    "a long cycle",
		results: results{fooKey: made("docker.io/library/b:1", "docker.io/team/c:latest", "docker.io/library/a:latest")},
		opts:    Options{Own: []string{"docker.io/library/x:latest", "docker.io/library/a:latest"}},
		err:     "named results in a cycle: a is made from foo, which was made from b:1, which was made from team/c, which was made from a: give one of them another name",
	},
	{
		name: "no cycle", results: results{fooKey: made("docker.io/library/b:1", "docker.io/library/b:1")}, opts: Options{Own: []string{"docker.io/library/a:latest"}},
		calls: []string{"show [internal] foo:latest named result, built 2 minutes ago"}, config: `{"for":"linux/amd64"}`,
	},
}

func TestNamedResults(t *testing.T) {
	t.Parallel()
	for _, tt := range namedResults {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := &builder{tag: is, down: tt.down}
			q := tt.query
			if tt.ask == "" {
				tt.ask = "foo"
			}
			q.Name = parsed(tt.ask)
			r := New(b, tt.mem, tt.results, tt.opts, func() time.Time { return now })
			a, err := r.Resolve(t.Context(), completed(q))
			var text string
			if err != nil {
				text = shorten(err.Error())
			}
			diff(t, "calls", b.calls, tt.calls)
			diff(t, "error", text, tt.err)
			diff(t, "config", string(a.Config), tt.config)
			used, ok := r.Result(a.Digest)
			if ok != (tt.config != "") || ok && string(used.Build.Config) != tt.config {
				t.Errorf("the digest stands for %v, %+v", ok, used)
			}
			if n := len(r.Used()); (n == 1) != ok {
				t.Errorf("%d results are used", n)
			}
		})
	}
}

// Two builds of one name, and two platforms of one build, are different images.
func TestMarkersDiffer(t *testing.T) {
	t.Parallel()
	seen := map[digest.Digest]string{}
	for name, res := range map[string]*ledger.Result{"one": built("linux/amd64", "linux/arm64"), "two": made("x")} {
		for _, p := range []string{"linux/amd64", "linux/arm64"} {
			res.Platforms[p] = ledger.Build{Definition: []byte(name), Config: json.RawMessage("{}")}
			r := New(&builder{}, memory{}, results{fooKey: res}, Options{}, func() time.Time { return now })
			a, err := r.Resolve(t.Context(), completed(Query{Name: parsed("foo"), Platform: platforms.MustParse(p)}))
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[a.Digest]; ok {
				t.Errorf("%s %s has the digest of %s", name, p, other)
			}
			seen[a.Digest] = name + " " + p
		}
	}
}
