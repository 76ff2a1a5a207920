package parity

import (
	"context"
	"encoding/json"
	"flag"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/subrequests"
)

var update = flag.Bool("update", false, "rewrite the want sections of the corpus from the official frontend")

// TestParity builds the corpus with both frontends.
func TestParity(t *testing.T) {
	w, sides := start(t)
	seen := &lintSeen{rules: map[string]bool{}}
	t.Run("cases", func(t *testing.T) {
		for _, folder := range []string{"good", "broken"} {
			for i, c := range corpus(t, folder) {
				t.Run(folder+"/"+c.name, func(t *testing.T) {
					compare(t, sides, w.prepare(t, c), way{asksFirst: i%2 == 0, byImage: c.broken || i%4 < 2}, seen)
				})
			}
		}
	})
	t.Run("describe", func(t *testing.T) {
		describe(t, sides, w.prepare(t, &testCase{
			name: "describe", opts: map[string]string{}, files: map[string][]byte{"Dockerfile": []byte("FROM scratch\n")},
		}))
	})
	if flag.Lookup("test.run").Value.String() == "" {
		seen.check(t)
	}
}

// compare builds one case on both sides and holds their facts together.
func compare(t *testing.T, sides [2]*side, st *stage, w way, seen *lintSeen) {
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	var runs [2]*run
	var errs [2]error
	var wg sync.WaitGroup
	for i, s := range sides {
		wg.Go(func() { runs[i], errs[i] = s.build(ctx, st, w) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("%s: %v", sides[i].name, err)
		}
	}
	official, local := runs[0], runs[1]
	seen.note(official)
	checkWant(t, st, official)
	same := true
	for _, fact := range factNames(official.facts, local.facts) {
		a, b := official.facts[fact], local.facts[fact]
		if a == b || isAllowed(st.name, fact) {
			continue
		}
		same = false
		t.Errorf("%s differs (-official +localfront):\n%s", fact, cmp.Diff(lines(a), lines(b)))
	}
	if !same && len(official.image) > 0 {
		if diff := cmp.Diff(lines(listLayers(official)), lines(listLayers(local))); diff != "" {
			t.Logf("layers (-official +localfront):\n%s", diff)
		}
	}
	for i, r := range runs {
		checkWarm(t, sides[i], st, r)
	}
}

func lines(text string) []string { return strings.Split(text, "\n") }

func factNames(all ...facts) []string {
	var names []string
	for _, f := range all {
		names = append(names, sortedKeys(f)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// checkWarm compares the builds of one side: the same image each time, and the
// same definitions in the second and third.
func checkWarm(t *testing.T, s *side, st *stage, r *run) {
	if st.broken {
		return
	}
	if !st.unsteady() {
		for _, key := range []string{"response containerimage.digest", "response containerimage.config.digest"} {
			first := r.facts["first "+key]
			if got := r.facts["second "+key]; got != first {
				t.Errorf("%s: second %s = %q, first %q", s.name, key, got, first)
			}
			if got := r.third["third "+key]; s.learns && got != first {
				t.Errorf("%s: third %s = %q, first %q", s.name, key, got, first)
			}
		}
	}
	for _, name := range r.vertices[1] {
		if strings.HasSuffix(name, " from registry") && st.opts["image-resolve-mode"] != "pull" {
			t.Errorf("%s: the second build does not remember: %s", s.name, name)
		}
	}
	if !s.learns {
		return
	}
	if diff := cmp.Diff(steady(r.vertices[1]), steady(r.vertices[2])); diff != "" {
		t.Errorf("%s: definitions of the second and third build differ:\n%s", s.name, diff)
	}
}

// checkWant holds the official side against the golden section, so that a case
// goes on covering what it says it covers.
func checkWant(t *testing.T, st *stage, r *run) {
	got := wantText(r)
	if *update {
		if err := st.saveWant(got); err != nil {
			t.Error(err)
		}
		return
	}
	if diff := cmp.Diff(lines(st.want), lines(got)); diff != "" {
		t.Errorf("the official frontend does not do what the case wants (-want +got; rewrite with -update):\n%s", diff)
	}
	if failed := r.facts["first error"] != ""; failed != st.broken {
		t.Errorf("the official build failed: %t, want %t", failed, st.broken)
	}
}

// wantText is the golden text: the error with its position, then the warnings.
func wantText(r *run) string {
	text := r.facts["first error"] + r.facts["first error position"]
	for line := range strings.Lines(r.facts["first warnings"]) {
		if !strings.HasPrefix(line, " ") {
			text += strings.TrimRight(line, "\n") + "\n"
		}
	}
	return text
}

// lintSeen collects the lint rules that the corpus triggers.
type lintSeen struct {
	mu    sync.Mutex
	rules map[string]bool
}

var ruleName = regexp.MustCompile(`(?m)^(\w+): .* \(line \d+\)$`)

func (l *lintSeen) note(r *run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range ruleName.FindAllStringSubmatch(r.facts["first warnings"], -1) {
		l.rules[m[1]] = true
	}
}

// check fails for a rule of this BuildKit version that no case triggers.
func (l *lintSeen) check(t *testing.T) {
	for _, rule := range []string{
		linter.RuleStageNameCasing.Name, linter.RuleFromAsCasing.Name, linter.RuleNoEmptyContinuation.Name,
		linter.RuleConsistentInstructionCasing.Name, linter.RuleDuplicateStageName.Name,
		linter.RuleReservedStageName.Name, linter.RuleJSONArgsRecommended.Name,
		linter.RuleMaintainerDeprecated.Name, linter.RuleUndefinedArgInFrom.Name,
		linter.RuleWorkdirRelativePath.Name, linter.RuleUndefinedVar.Name,
		linter.RuleMultipleInstructionsDisallowed.Name, linter.RuleLegacyKeyValueFormat.Name,
		linter.RuleInvalidBaseImagePlatform.Name, linter.RuleRedundantTargetPlatform.Name,
		linter.RuleSecretsUsedInArgOrEnv.Name, linter.RuleInvalidDefaultArgInFrom.Name,
		linter.RuleFromPlatformFlagConstDisallowed.Name, linter.RuleCopyIgnoredFile.Name,
		linter.RuleInvalidDefinitionDescription.Name, linter.RuleExposeProtoCasing.Name,
		linter.RuleExposeInvalidFormat.Name,
	} {
		if !l.rules[rule] {
			t.Errorf("no case triggers the lint rule %s", rule)
		}
	}
}

// describe compares the lists of subrequests: all of the official frontend's, as
// they are, and none but localfront's own beside them.
func describe(t *testing.T, sides [2]*side, st *stage) {
	var lists [2][]subrequests.Request
	for i, s := range sides {
		f := facts{}
		sess, _, err := s.session(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		defer sess.Close()
		s.ask(t.Context(), st, sess, f, subrequests.RequestSubrequestsDescribe)
		if err := json.Unmarshal([]byte(f[subrequests.RequestSubrequestsDescribe+" result.json"]), &lists[i]); err != nil {
			t.Fatalf("%s: %v in %v", s.name, err, f)
		}
		for _, r := range lists[i] {
			if !strings.Contains(f[subrequests.RequestSubrequestsDescribe+" result.txt"], r.Description) {
				t.Errorf("%s: result.txt lacks %s", s.name, r.Name)
			}
		}
	}
	lists[1] = slices.DeleteFunc(lists[1], func(r subrequests.Request) bool { return ownSubrequest.MatchString(r.Name) })
	if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
		t.Errorf("subrequests (-official +localfront):\n%s", diff)
	}
}
