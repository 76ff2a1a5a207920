// Package calls answers the --call verbs that are localfront's own beside
// BuildKit's (lint, outline, targets).
//
// buildx hands `--call=NAME` over as the subrequest frontend.NAME, prints
// result.txt, or result.json with `,format=json`, and exits with
// result.statuscode. What a verb does is its package's; here is the table of
// them, how an answer becomes a result, and the list that
// `--call=subrequests.describe` prints.
package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
)

// Keys of the metadata that a client prints.
const (
	keyJSON    = "result.json"
	keyText    = "result.txt"
	keyStatus  = "result.statuscode"
	keyVersion = "version"
)

// version is that of every verb's answer.
const version = "1.0.0"

// prefix stands before the name of a verb in a subrequest's.
const prefix = "frontend."

// Describe is the subrequest that lists all others.
const Describe = subrequests.RequestSubrequestsDescribe

// Verb is one thing to call.
type Verb struct {
	// Name is what follows --call=.
	Name string
	// Description is one line for the list of verbs.
	Description string
	// Run does it.
	Run func(ctx context.Context) (Answer, error)
}

// Answer is what a verb says.
type Answer struct {
	// Text is for people. It ends with a newline.
	Text string
	// JSON is for programs, anything that marshals. Without it there is only
	// the text.
	JSON any
	// Status is the client's exit status.
	Status int
}

// Table is all verbs there are, in the order of their list.
type Table []Verb

// Find returns the verb of a subrequest.
func (t Table) Find(requestID string) (Verb, bool) {
	i := slices.IndexFunc(t, func(v Verb) bool { return prefix+v.Name == requestID })
	if i < 0 {
		return Verb{}, false
	}
	return t[i], true
}

// Result returns the answer as a client takes it.
func (a Answer) Result() (*client.Result, error) {
	res := client.NewResult()
	if a.JSON != nil {
		dt, err := json.MarshalIndent(a.JSON, "", "  ")
		if err != nil {
			return nil, err
		}
		res.AddMeta(keyJSON, dt)
	}
	res.AddMeta(keyText, []byte(a.Text))
	res.AddMeta(keyStatus, []byte(strconv.Itoa(a.Status)))
	res.AddMeta(keyVersion, []byte(version))
	return res, nil
}

// Describe returns BuildKit's answer to Describe with the verbs of t, and with
// lint, which BuildKit's Dockerfile frontend answers but does not list.
func (t Table) Describe(standard *client.Result) (*client.Result, error) {
	var all []subrequests.Request
	if err := json.Unmarshal(standard.Metadata[keyJSON], &all); err != nil {
		return nil, fmt.Errorf("the list of subrequests: %w", err)
	}
	if !slices.ContainsFunc(all, func(r subrequests.Request) bool { return r.Name == lint.RequestLint }) {
		all = append(all, lint.SubrequestLintDefinition)
	}
	for _, v := range t {
		all = append(all, subrequests.Request{
			Name:        prefix + v.Name,
			Version:     version,
			Type:        subrequests.TypeRPC,
			Description: v.Description,
			Opts:        []subrequests.Named{},
			Metadata:    []subrequests.Named{{Name: keyJSON}, {Name: keyText}, {Name: keyStatus}},
		})
	}
	dt, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := subrequests.PrintDescribe(dt, &text); err != nil {
		return nil, err
	}
	standard.AddMeta(keyJSON, dt)
	standard.AddMeta(keyText, text.Bytes())
	return standard, nil
}
