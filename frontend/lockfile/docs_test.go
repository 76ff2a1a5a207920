package lockfile

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recipe is the configuration for Renovate in docs/lockfile.md.
func recipe(t *testing.T) (files, text *regexp.Regexp) {
	t.Helper()
	page, err := os.ReadFile("../../docs/lockfile.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "\n```json\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	var config struct {
		CustomManagers []struct{ ManagerFilePatterns, MatchStrings []string }
	}
	if err := json.Unmarshal([]byte(block), &config); err != nil {
		t.Fatalf("%v in\n%s", err, block)
	}
	if len(config.CustomManagers) != 1 || len(config.CustomManagers[0].ManagerFilePatterns) != 1 || len(config.CustomManagers[0].MatchStrings) != 1 {
		t.Fatalf("not one manager with one pattern and one expression: %+v", config)
	}
	m := config.CustomManagers[0]
	return regexp.MustCompile(strings.Trim(m.ManagerFilePatterns[0], "/")), regexp.MustCompile(m.MatchStrings[0])
}

// What the page tells Renovate to look for is what is written. Its expressions
// are RE2's, as Go's are.
func TestRenovateFindsTheImages(t *testing.T) {
	t.Parallel()
	files, text := recipe(t)
	for name, want := range map[string]bool{"Dockerfile.lock": true, "a/b/Other.Dockerfile.lock": true, "Dockerfile": false, "a.lock/x": false} {
		if files.MatchString(name) != want {
			t.Errorf("%s is taken for a lock: %t", name, !want)
		}
	}
	for _, lock := range []string{written, strings.ReplaceAll(written, "\n", "\r\n")} {
		var found [][]string
		for _, m := range text.FindAllStringSubmatch(lock, -1) {
			group := func(name string) string { return m[text.SubexpIndex(name)] }
			found = append(found, []string{group("depName"), group("currentValue"), group("currentDigest")})
		}
		want := [][]string{{"docker.io/library/alpine", "3.20", shaA}, {"registry.example:5000/team/app", "v1", shaB}}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("images (-want +got):\n%s", diff)
		}
	}
}
