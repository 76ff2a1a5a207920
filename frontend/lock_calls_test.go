package frontend

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/org/localfront/internal/fakegateway"
)

// call returns what a client prints of a verb, and its exit status.
func call(t *testing.T, b *fakegateway.Builder, what fakegateway.Build, verb string, into any) (text, status string) {
	t.Helper()
	res := build(t, b, with(what, keyRequestID, "frontend."+verb))
	if err := json.Unmarshal(res.Metadata["result.json"], into); err != nil {
		t.Fatalf("%s: %v in\n%s", verb, err, res.Metadata["result.json"])
	}
	return string(res.Metadata["result.txt"]), string(res.Metadata["result.statuscode"])
}

const twoBases = "FROM base:1\nFROM base:2\n"

func TestCallLock(t *testing.T) {
	t.Parallel()
	b := stocked()
	var got struct {
		Exists  bool
		Entries []struct{ Kind, Name, Value string }
	}
	text, status := call(t, b, dockerfile(twoBases), "lock", &got)
	equal(t, "without a lock", text, "there is no Dockerfile.lock: write it with docker build --build-arg LOCALFRONT_LOCK=update -o . .\n")
	equal(t, "status", status, "1")
	lock, _ := written(t, b, dockerfile(twoBases), "update")
	text, status = call(t, b, beside(dockerfile(twoBases), "Dockerfile.lock", lock), "lock", &got)
	equal(t, "text", text, lock)
	equal(t, "status", status, "0")
	equal(t, "exists", got.Exists, true)
	equal(t, "entries", len(got.Entries), 3)
}

func TestCallCheck(t *testing.T) {
	t.Parallel()
	b := stocked()
	was := b.Registry.Push("base:1", fakegateway.Image{Content: "was"}).String()
	now := b.Registry.Push("base:1", fakegateway.Image{Content: "now"}).String()
	syntax := b.Registry.Push("ghcr.io/org/localfront:latest", fakegateway.Image{Content: "localfront"}).String()
	lock := lockOf(t, "Dockerfile.lock", "image", "base:1", was, "image", "gone", was, "image", "ghcr.io/org/localfront", syntax)
	var got struct {
		Missing, Stale, Unused, Unknown []struct{ Name, Was, Now string }
	}
	text, status := call(t, b, beside(dockerfile(twoBases, "locked"), "Dockerfile.lock", lock), "lock.check", &got)
	equal(t, "text", text, "Dockerfile.lock: 3 pins, 1 missing, 1 stale, 1 unused\n"+
		"missing  base:2       line 2\n"+
		"stale    base:1       "+was+" → "+now+"\n"+
		"unused   gone:latest\n"+
		"mend it: docker build --build-arg LOCALFRONT_LOCK=update -o . .\n"+
		"pin the frontend as well: # syntax=ghcr.io/org/localfront:latest@"+syntax+" locked\n")
	equal(t, "status", status, "1")
	equal(t, "stale", got.Stale[0].Now, now)
	lock = lockOf(t, "Dockerfile.lock", "image", "base:1", now, "image", "ghcr.io/org/localfront", syntax)
	text, status = call(t, b, beside(with(dockerfile("FROM base:1\n"), keyCmdline, "ghcr.io/org/localfront"), "Dockerfile.lock", lock), "lock.check", &got)
	equal(t, "text where all is well", text, "Dockerfile.lock: all 2 pins are used and up to date\npin the frontend as well: # syntax=ghcr.io/org/localfront:latest@"+syntax+"\n")
	equal(t, "status where all is well", status, "0")

	b.Registry.Down("docker.io", errUnreachable)
	text, status = call(t, b, beside(dockerfile("FROM base:1\n"), "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", "base:1", was, "image", "ghcr.io/org/localfront", syntax)), "lock.check", &got)
	if !strings.Contains(text, "unknown  base:1") || status != "1" {
		t.Errorf("without a registry: status %s\n%s", status, text)
	}
}

func TestCallResolveAsksNobody(t *testing.T) {
	t.Parallel()
	b := stocked()
	first := dockerfile("FROM base:1\nRUN true\n")
	build(t, b, first)
	pinned := b.Registry.Push("base:2", fakegateway.Image{Content: "2", Platforms: []string{"linux/amd64", "linux/arm64"}}).String()
	what := beside(dockerfile("FROM base:1\nFROM base:2\nFROM base:3\n"), "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", "base:2", pinned))
	b.Restart()
	var got []struct{ Name, Who, Digest, Content string }
	text, status := call(t, b, what, "resolve", &got)
	equal(t, "requests", b.Requests(), nil)
	equal(t, "status", status, "0")
	who := map[string]string{}
	for _, row := range got {
		who[row.Name] = row.Who + " " + row.Content
		if !strings.Contains(text, row.Name) {
			t.Errorf("the text lacks %s:\n%s", row.Name, text)
		}
	}
	equal(t, "rows", who, map[string]string{"base:1": "memory here", "base:2": "lock elsewhere", "base:3": "registry elsewhere"})
}

func TestCallOutdated(t *testing.T) {
	t.Parallel()
	b := stocked()
	build(t, b, dockerfile("FROM base:1\nRUN true\n"))
	pinned := b.Registry.Push("base:2", fakegateway.Image{Content: "old"}).String()
	what := beside(dockerfile("FROM base:1\nFROM base:2\nFROM base:3\n"), "Dockerfile.lock", lockOf(t, "Dockerfile.lock", "image", "base:2", pinned))
	var got []struct{ Name, Known, Was, Now string }
	text, _ := call(t, b, what, "outdated", &got)
	equal(t, "text", text, "all 2 names that are pinned or remembered are up to date\n")
	one := b.Registry.Push("base:1", fakegateway.Image{Content: "new"}).String()
	two := b.Registry.Push("base:2", fakegateway.Image{Content: "new"}).String()
	call(t, b, what, "outdated", &got)
	known := map[string]string{}
	for _, row := range got {
		known[row.Name] = row.Known + " " + row.Now
	}
	equal(t, "moved", known, map[string]string{"base:1": "memory " + one, "base:2": "Dockerfile.lock " + two})
}

func TestCallPolicy(t *testing.T) {
	t.Parallel()
	sum := "sha256:" + strings.Repeat("a", 64)
	lock := lockOf(t, "Dockerfile.lock", "image", "base:1", sum, "http", "https://example.com/x", sum, "git", "https://github.com/org/repo.git#v1", commit)
	var got struct {
		Rules []struct {
			Action   string
			Selector struct{ Identifier string }
			Updates  struct {
				Identifier string
				Attrs      map[string]string
			}
		}
	}
	call(t, stocked(), beside(dockerfile("FROM base:1\n"), "Dockerfile.lock", lock), "lock.policy", &got)
	var rules []string
	for _, r := range got.Rules {
		rules = append(rules, r.Action+" "+r.Selector.Identifier+" "+r.Updates.Identifier+r.Updates.Attrs["http.checksum"])
	}
	equal(t, "rules", rules, []string{
		"CONVERT docker-image://docker.io/library/base:1 docker-image://docker.io/library/base:1@" + sum,
		`CONVERT ^git://github\.com/org/repo\.git#v1(:.*)?$ git://github.com/org/repo.git#` + commit + "${1}",
		"CONVERT https://example.com/x https://example.com/x" + sum,
	})
}

func TestLockVerbsAreListed(t *testing.T) {
	t.Parallel()
	res := build(t, stocked(), with(dockerfile(twoBases), keyRequestID, "frontend.subrequests.describe"))
	for _, verb := range []string{"lock", "lock.check", "lock.policy", "resolve", "outdated", "lint", "outline", "targets"} {
		if !strings.Contains(string(res.Metadata["result.json"]), `"frontend.`+verb+`"`) {
			t.Errorf("%s is not listed", verb)
		}
	}
}
