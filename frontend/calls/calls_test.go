package calls

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
)

func noop(context.Context) (Answer, error) { return Answer{}, nil }

var table = Table{
	{Name: "weather", Description: "Tell the weather", Run: noop},
	{Name: "weather.check", Description: "Check it", Run: noop},
}

func TestFind(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"frontend.weather":       "weather",
		"frontend.weather.check": "weather.check",
		"weather":                "",
		"frontend.":              "",
		"frontend.lint":          "",
		"":                       "",
	} {
		v, ok := table.Find(id)
		if v.Name != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", id, v.Name, ok, want)
		}
	}
}

func TestResult(t *testing.T) {
	t.Parallel()
	res, err := Answer{Text: "rain\n", JSON: map[string]int{"mm": 3}, Status: 1}.Result()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"result.txt": "rain\n", "result.json": "{\n  \"mm\": 3\n}", "result.statuscode": "1", "version": "1.0.0",
	} {
		if got := string(res.Metadata[key]); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if _, err := (Answer{JSON: make(chan int)}).Result(); err == nil {
		t.Error("a channel became JSON")
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	describe := func(standard ...subrequests.Request) []string {
		dt, err := json.Marshal(standard)
		if err != nil {
			t.Fatal(err)
		}
		in := client.NewResult()
		in.AddMeta("result.json", dt)
		res, err := table.Describe(in)
		if err != nil {
			t.Fatal(err)
		}
		var all []subrequests.Request
		if err := json.Unmarshal(res.Metadata["result.json"], &all); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range all {
			names = append(names, r.Name)
			line := strings.TrimPrefix(r.Name, "frontend.") + " "
			if text := string(res.Metadata["result.txt"]); !strings.Contains(text, line) || !strings.Contains(text, r.Description) {
				t.Errorf("result.txt lacks %s:\n%s", r.Name, text)
			}
		}
		return names
	}
	want := []string{"frontend.outline", "frontend.lint", "frontend.weather", "frontend.weather.check"}
	if got := describe(outline.SubrequestsOutlineDefinition); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := describe(outline.SubrequestsOutlineDefinition, lint.SubrequestLintDefinition); !slices.Equal(got, want) {
		t.Errorf("with lint listed: %q, want %q", got, want)
	}
	if _, err := table.Describe(client.NewResult()); err == nil {
		t.Error("no list is no error")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	a := Names([]Named{
		{Name: "foo", Platforms: []string{"linux/amd64", "linux/arm64"}, Built: now.Add(-2 * time.Minute), Dockerfile: "Dockerfile.foo"},
		{Name: "team/bar:1.2", Platforms: []string{"linux/amd64"}, Built: now.Add(time.Hour), Dockerfile: "Dockerfile", From: []string{"foo"}},
	}, now)
	const want = `NAME          PLATFORMS                BUILT                   DOCKERFILE      FROM
foo           linux/amd64,linux/arm64  2 minutes ago           Dockerfile.foo  
team/bar:1.2  linux/amd64              less than a second ago  Dockerfile      foo
`
	if a.Text != want {
		t.Errorf("got\n%s\nwant\n%s", a.Text, want)
	}
	a = Names(nil, now)
	res, err := a.Result()
	if err != nil || string(res.Metadata["result.json"]) != "[]" || a.Text != "no build on this builder has been named\n" {
		t.Errorf("%v, %q, %s", err, a.Text, res.Metadata["result.json"])
	}
}
