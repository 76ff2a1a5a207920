package testregistry

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Kind says what a request is about.
type Kind string

// The kinds of requests.
const (
	Ping      Kind = "ping"      // GET /v2/
	Token     Kind = "token"     // GET /token
	Manifest  Kind = "manifest"  // HEAD, GET, PUT or DELETE of a tag or digest
	Blob      Kind = "blob"      // HEAD or GET of a layer or config
	Upload    Kind = "upload"    // pushing a blob
	Tags      Kind = "tags"      // the list of a repository's tags
	Referrers Kind = "referrers" // manifests that refer to a digest
	Other     Kind = "other"     // anything else
)

// Request is one request that reached the registry.
type Request struct {
	Time       time.Time // arrival
	Method     string
	Path       string
	Kind       Kind
	Repository string // empty for Ping, Token and Other
	Reference  string // tag or digest of a manifest, digest of a blob, scope of a token
	UserAgent  string
	Status     int // 0 while unanswered, and for ever when it never was
}

// String is one line, such as "HEAD manifest library/alpine:3.20 200".
func (q Request) String() string {
	what := q.Repository
	switch {
	case q.Kind == Token:
		what = q.Reference
	case q.Repository == "":
		what = q.Path
	case strings.Contains(q.Reference, ":"):
		what += "@" + q.Reference
	case q.Reference != "":
		what += ":" + q.Reference
	}
	return fmt.Sprintf("%s %s %s %d", q.Method, q.Kind, what, q.Status)
}

// Filter chooses requests.
type Filter func(Request) bool

// InRepository keeps the requests about one repository, such as
// "library/alpine". Requests for a token of that repository belong to it.
func InRepository(repo string) Filter {
	return func(q Request) bool {
		return q.Repository == repo ||
			q.Kind == Token && strings.Contains(" "+q.Reference, " repository:"+repo+":")
	}
}

// OfKind keeps the requests of these kinds.
func OfKind(kinds ...Kind) Filter {
	return func(q Request) bool { return slices.Contains(kinds, q.Kind) }
}

// WithMethod keeps the requests with this HTTP method.
func WithMethod(method string) Filter {
	return func(q Request) bool { return q.Method == method }
}

// WithStatus keeps the requests that got this answer.
func WithStatus(status int) Filter {
	return func(q Request) bool { return q.Status == status }
}

// Requests returns what passes all filters, in order of arrival. What the
// registry's own helpers (Push, Tag, Delete, Digest) do is not in the log.
func (r *Registry) Requests(filters ...Filter) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Request
next:
	for _, q := range r.requests {
		for _, f := range filters {
			if !f(*q) {
				continue next
			}
		}
		out = append(out, *q)
	}
	return out
}

// Count is the number of requests that pass all filters.
func (r *Registry) Count(filters ...Filter) int { return len(r.Requests(filters...)) }

// Log is the filtered requests as text, one a line; it is made for failure
// messages and for comparing with an exact expectation.
func (r *Registry) Log(filters ...Filter) string {
	var b strings.Builder
	for _, q := range r.Requests(filters...) {
		fmt.Fprintln(&b, q)
	}
	return b.String()
}

// Reset empties the log. Requests still under way are dropped from it too.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// record enters a request on arrival, so that one that hangs is seen as well.
func (r *Registry) record(req *http.Request) *Request {
	q := classify(req)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, q)
	return q
}

func (r *Registry) answered(q *Request, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Status == 0 {
		q.Status = status
	}
}

// classify reads a request's meaning off its path. Repositories have slashes
// in their names, so the verb is found from the end.
func classify(req *http.Request) *Request {
	q := &Request{
		Time: time.Now(), Method: req.Method, Path: req.URL.Path,
		Kind: Other, UserAgent: req.UserAgent(),
	}
	switch path := strings.TrimPrefix(req.URL.Path, "/v2"); {
	case req.URL.Path == "/token":
		q.Kind, q.Reference = Token, strings.Join(req.URL.Query()["scope"], " ")
	case path == req.URL.Path:
	case path == "" || path == "/":
		q.Kind = Ping
	default:
		q.Kind, q.Repository, q.Reference = split(path)
	}
	return q
}

func split(path string) (kind Kind, repo, ref string) {
	elems := strings.Split(strings.Trim(path, "/"), "/")
	if n := len(elems); n >= 3 {
		repo, ref = strings.Join(elems[:n-2], "/"), elems[n-1]
		switch elems[n-2] {
		case "manifests":
			return Manifest, repo, ref
		case "referrers":
			return Referrers, repo, ref
		case "tags":
			return Tags, repo, ""
		case "blobs":
			if ref == "uploads" {
				return Upload, repo, ""
			}
			return Blob, repo, ref
		case "uploads":
			return Upload, strings.Join(elems[:n-3], "/"), ""
		}
	}
	return Other, "", ""
}
