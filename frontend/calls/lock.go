package calls

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/org/localfront/frontend/lockfile"
)

// Source is one line of an answer about the lock.
type Source struct {
	// Kind is that of its table in the lock.
	Kind lockfile.Kind `json:"kind"`
	// Name is the name as people write it.
	Name string `json:"name"`
	// Lines are where the Dockerfile names it.
	Lines []int `json:"lines,omitempty"`
	// Was is the digest or commit that is known, Now the one it has now.
	Was string `json:"was,omitempty"`
	Now string `json:"now,omitempty"`
	// Known says what Was comes from.
	Known string `json:"known,omitempty"`
	// Reason is why nobody could tell what it is now.
	Reason string `json:"reason,omitempty"`
}

func (s Source) place() string {
	if len(s.Lines) == 0 {
		return ""
	}
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(s.Lines)), ","), "[]")
}

// Check is what `lock.check` has found.
type Check struct {
	// File is the lock.
	File string `json:"file"`
	// Pins is the number of its entries.
	Pins int `json:"pins"`
	// Missing are named and not pinned, Stale pinned to what they are no more,
	// Unused pinned and not named, Unknown those that nobody could tell of.
	Missing []Source `json:"missing"`
	Stale   []Source `json:"stale"`
	Unused  []Source `json:"unused"`
	Unknown []Source `json:"unknown"`
	// Command mends it, empty where nothing is to mend.
	Command string `json:"command,omitempty"`
	// Syntax is the # syntax= line by digest, empty where it is already.
	Syntax string `json:"syntax,omitempty"`
}

// Answer says so. It is not the same as right, so that its status is 1.
func (c Check) Answer() Answer {
	c.Missing, c.Stale, c.Unused, c.Unknown = list(c.Missing), list(c.Stale), list(c.Unused), list(c.Unknown)
	var text strings.Builder
	status := 0
	if len(c.Missing)+len(c.Stale)+len(c.Unused)+len(c.Unknown) == 0 {
		fmt.Fprintf(&text, "%s: all %d pins are used and up to date\n", c.File, c.Pins)
	} else {
		status = 1
		fmt.Fprintf(&text, "%s: %d pins, %d missing, %d stale, %d unused\n", c.File, c.Pins, len(c.Missing), len(c.Stale), len(c.Unused))
		columns(&text, func(w *tabwriter.Writer) {
			for _, s := range c.Missing {
				fmt.Fprintf(w, "missing\t%s\t%s\n", s.Name, prefixed("line ", s.place()))
			}
			for _, s := range c.Stale {
				fmt.Fprintf(w, "stale\t%s\t%s → %s\n", s.Name, s.Was, s.Now)
			}
			for _, s := range c.Unused {
				fmt.Fprintf(w, "unused\t%s\t\n", s.Name)
			}
			for _, s := range c.Unknown {
				fmt.Fprintf(w, "unknown\t%s\t%s\n", s.Name, s.Reason)
			}
		})
	}
	if c.Command != "" {
		fmt.Fprintf(&text, "mend it: %s\n", c.Command)
	}
	if c.Syntax != "" {
		fmt.Fprintf(&text, "pin the frontend as well: %s\n", c.Syntax)
	}
	return Answer{Text: text.String(), JSON: c, Status: status}
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// list is never null in JSON.
func list[T any](all []T) []T { return append(make([]T, 0, len(all)), all...) }

// columns writes a table. A strings.Builder takes everything.
func columns(text *strings.Builder, rows func(w *tabwriter.Writer)) {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	rows(w)
	_ = w.Flush()
	for line := range strings.Lines(out.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// Lock answers with the lock itself, nil where there is none.
func Lock(f *lockfile.File, name, command string) Answer {
	type entry struct {
		Kind  lockfile.Kind `json:"kind"`
		Name  string        `json:"name"`
		Value string        `json:"value"`
	}
	answer := struct {
		File    string  `json:"file"`
		Exists  bool    `json:"exists"`
		Entries []entry `json:"entries"`
	}{File: name, Exists: f != nil, Entries: []entry{}}
	if f == nil {
		return Answer{Text: fmt.Sprintf("there is no %s: write it with %s\n", name, command), JSON: answer, Status: 1}
	}
	for _, e := range f.Entries() {
		answer.Entries = append(answer.Entries, entry{e.Kind, e.Name, e.Value})
	}
	return Answer{Text: string(f.Data), JSON: answer}
}

// Standing is one line of what Resolve answers.
type Standing struct {
	// Name is the name as people write it.
	Name string `json:"name"`
	// Platform is the one it is asked for.
	Platform string `json:"platform,omitempty"`
	// Who answers it.
	Who string `json:"who"`
	// Digest is what it stands for, empty where only a registry can tell.
	Digest string `json:"digest,omitempty"`
	// Since is when that was resolved or built, nil where that is not known.
	Since *time.Time `json:"since,omitempty"`
	// Content is here, metadata, or elsewhere.
	Content string `json:"content"`
}

// Resolve answers who answers each name.
func Resolve(all []Standing, now time.Time) Answer {
	var text strings.Builder
	columns(&text, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NAME\tPLATFORM\tWHO\tDIGEST\tAGE\tCONTENT")
		for _, s := range all {
			age := ""
			if s.Since != nil {
				age = strings.ToLower(units.HumanDuration(max(0, now.Sub(*s.Since))))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Platform, s.Who, s.Digest, age, s.Content)
		}
	})
	if len(all) == 0 {
		text.Reset()
		text.WriteString("the Dockerfile names nothing from outside\n")
	}
	return Answer{Text: text.String(), JSON: list(all)}
}

// Outdated answers what has moved since it was pinned or remembered.
func Outdated(all []Source, asked int) Answer {
	var text strings.Builder
	columns(&text, func(w *tabwriter.Writer) {
		for _, s := range all {
			if s.Reason != "" {
				fmt.Fprintf(w, "%s\t%s\tunknown: %s\n", s.Name, s.Known, s.Reason)
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s → %s\n", s.Name, s.Known, s.Was, s.Now)
		}
	})
	if len(all) == 0 {
		fmt.Fprintf(&text, "all %d names that are pinned or remembered are up to date\n", asked)
	}
	return Answer{Text: text.String(), JSON: list(all)}
}

// Policy answers with the lock as a source policy of BuildKit, for builds
// without localfront.
func Policy(f *lockfile.File, gitIdentifier func(address string) string) (Answer, error) {
	p := &spb.Policy{Version: 1}
	for _, e := range f.Entries() {
		rule := &spb.Rule{Action: spb.PolicyAction_CONVERT}
		switch e.Kind {
		case lockfile.Image:
			id := "docker-image://" + e.Name
			rule.Selector = &spb.Selector{Identifier: id, MatchType: spb.MatchType_EXACT}
			rule.Updates = &spb.Update{Identifier: id + "@" + e.Value}
		case lockfile.HTTP:
			rule.Selector = &spb.Selector{Identifier: e.Name, MatchType: spb.MatchType_EXACT}
			rule.Updates = &spb.Update{Identifier: e.Name, Attrs: map[string]string{pb.AttrHTTPChecksum: e.Value}}
		case lockfile.Git:
			// With and without a folder of the repository.
			address, ref, _ := strings.Cut(e.Name, "#")
			id := gitIdentifier(address)
			what := "^" + regexp.QuoteMeta(id+"#"+ref) + "(:.*)?$"
			if ref == "" {
				what = "^" + regexp.QuoteMeta(id) + "(?:#(:.*)?)?$"
			}
			rule.Selector = &spb.Selector{Identifier: what, MatchType: spb.MatchType_REGEX}
			rule.Updates = &spb.Update{Identifier: strings.ReplaceAll(id, "$", "$$") + "#" + e.Value + "${1}"}
		}
		p.Rules = append(p.Rules, rule)
	}
	dt, err := json.MarshalIndent(p, "", "  ")
	return Answer{Text: string(dt) + "\n", JSON: p}, err
}
