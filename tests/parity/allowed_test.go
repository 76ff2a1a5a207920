package parity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// This file is all that is known to differ between two builds that are the
// same, or between the two frontends.

// namedResultHint is what localfront adds to what a registry says of a name that
// it does not have.
var namedResultHint = regexp.MustCompile(` \(and no build on this builder was named [^)]*\)`)

// What no two builds share, even of one frontend: times, ids.
var (
	stamps  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	digests = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	refIDs  = regexp.MustCompile(`ref [0-9a-z]{25}::[0-9a-z]{25}`)
)

// unsteady says of a case that its digests are new with each build: it has no
// SOURCE_DATE_EPOCH, or a provenance attestation. What the digests are of is
// compared all the same, without times.
func (s *stage) unsteady() bool {
	return s.has("no-epoch") || s.opts["attest:provenance"] != ""
}

// unsteadyFacts are the facts of such a case that hold digests of digests.
var unsteadyFacts = regexp.MustCompile(`digest$|descriptor$|index.json$| (index|manifest|layers)$`)

// describeDefinitions replaces, in the JSON of a lint result, each LLB
// definition that the Dockerfile was read from by its source operations without
// the session's id: that is new each time, and so are the digests made of it.
func describeDefinitions(key string, result []byte) string {
	var v map[string]any
	if !strings.HasSuffix(key, ".json") || json.Unmarshal(result, &v) != nil {
		return string(result)
	}
	sources, _ := v["sources"].([]any)
	for _, source := range sources {
		if source, ok := source.(map[string]any); ok {
			definition, _ := source["definition"].(map[string]any)
			ops, _ := definition["def"].([]any)
			source["definition"] = describeOps(ops)
		}
	}
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func describeOps(ops []any) []string {
	var all []string
	for _, op := range ops {
		text, _ := op.(string)
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return []string{err.Error()}
		}
		var parsed pb.Op
		if err := parsed.UnmarshalVT(data); err != nil {
			return []string{err.Error()}
		}
		if source := parsed.GetSource(); source != nil {
			delete(source.Attrs, pb.AttrLocalSessionID)
			all = append(all, fmt.Sprint(source.Identifier, source.Attrs))
		}
	}
	return all
}

// maskedPredicate are the fields of a provenance predicate that hold times and
// ids of one build.
var maskedPredicate = map[string]bool{
	"invocationId": true, "invocationID": true, "buildInvocationID": true,
	"startedOn": true, "finishedOn": true, "buildStartedOn": true, "buildFinishedOn": true,
	"local.session": true,
}

// pinnedMaterial is how a predicate names an image that was resolved by digest:
// localfront resolves so what it remembers, where the official frontend asks for
// the tag. The material's digest field says the same in both.
var pinnedMaterial = regexp.MustCompile(`(pkg:docker/[^"?]*\?)digest=sha256:[0-9a-f]{64}&`)

func maskPredicate(data []byte, tell func(string) string) (string, error) {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return "", err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(maskFields(v))
	return pinnedMaterial.ReplaceAllString(tell(out.String()), "$1"), err
}

func maskFields(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["mediaType"] != nil && v["digest"] != nil {
			// A layer as it was before the exporter rewrote its time stamps.
			v["digest"], v["size"] = "MASKED", "MASKED"
		}
		for key, value := range v {
			switch mapping, isMap := value.(map[string]any); {
			case maskedPredicate[key]:
				v[key] = "MASKED"
			case key == "digestMapping" && isMap:
				v[key] = stepsOf(mapping)
			default:
				v[key] = maskFields(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = maskFields(v[i])
		}
	}
	return v
}

// stepsOf are the steps that a predicate maps vertex digests to. The digests of
// all that comes from a local context hold the session's id.
func stepsOf(mapping map[string]any) []string {
	var steps []string
	for _, step := range mapping {
		steps = append(steps, fmt.Sprint(step))
	}
	slices.Sort(steps)
	return steps
}

// Progress. localfront says who answered a name where the official frontend
// says that it loads metadata, and uses the familiar name: both become
// "resolve NAME". The vertices of its
// own bookkeeping have no counterpart: the ledger's reads and writes (their
// digest holds a nonce), the agent in them, and the look for layers. What they
// log, when a failing build cuts them short, is left out with them.
var (
	loadsMetadata = regexp.MustCompile(`^\[(.*internal|context [^\]]*)\] load metadata for (\S+)$`)
	whoAnswered   = regexp.MustCompile(`^\[(.*internal|context [^\]]*)\] (\S+) (?:from (?:registry|image store or registry|memory|Dockerfile\.lock)\b.*|pinned by digest.*)$`)
	bookkeeping   = regexp.MustCompile(`^\[internal\] (?:agent$|ledger \S+|layers of \S+)`)
)

// normalizeProgress reduces the names of a build's vertices to the set that
// both frontends must have.
func normalizeProgress(names []string, tell func(string) string) string {
	var all []string
	for _, name := range names {
		if bookkeeping.MatchString(name) {
			continue
		}
		name = tell(name)
		for _, form := range []*regexp.Regexp{loadsMetadata, whoAnswered} {
			name = form.ReplaceAllString(name, "[$1] resolve $2")
		}
		name = strings.Replace(name, "resolve docker.io/library/", "resolve ", 1)
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "\n")
}

// difference is a fact that may differ between the two frontends.
type difference struct {
	cases, fact *regexp.Regexp
	why         string
}

// allowed are the facts that the two frontends need not share.
var allowed = []difference{
	{
		cases: regexp.MustCompile(`^arg-many$`), fact: regexp.MustCompile(`^frontend\.outline result`),
		why: "the official frontend lists the names of one ARG line in random order",
	},
	{
		cases: regexp.MustCompile(`^image-missing-(in-mount|tag|two-platforms)$`), fact: regexp.MustCompile(`^first progress$`),
		why: "names are looked up side by side, and the first failure ends the build: what was in flight has a line only " +
			"where lines come before the answer",
	},
}

func isAllowed(name, fact string) bool {
	return slices.ContainsFunc(allowed, func(d difference) bool {
		return d.cases.MatchString(name) && d.fact.MatchString(fact)
	})
}

// steady leaves out of a build's vertices those that no definition holds: a
// name's resolution, whose line may tell its age, and bookkeeping.
func steady(vertices map[string]string) map[string]string {
	kept := map[string]string{}
	for digest, name := range vertices {
		if !bookkeeping.MatchString(name) && !whoAnswered.MatchString(name) {
			kept[digest] = name
		}
	}
	return kept
}

// ownSubrequest is what localfront may describe beside the official subrequests.
// The official frontend answers lint as well, and does not say so.
var ownSubrequest = regexp.MustCompile(`^frontend\.(lint|lock|lock\.check|lock\.policy|resolve|outdated|names)$`)
