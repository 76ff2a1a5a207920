package testregistry

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// All as a repository name stands for every repository, and for the requests
// that belong to none.
const All = ""

// Fault is one thing that goes wrong. Of several faults for one request, the
// delays add up and the first of the rest counts.
type Fault struct {
	Kinds   []Kind        // the requests it strikes; none means every kind
	Methods []string      // the HTTP methods it strikes; none means every method
	Delay   time.Duration // wait before anything else

	Hang       bool          // answer nothing until the faults change or the client leaves
	Status     int           // answer with this error: 401, 403, 404, 429, 500, 503, …
	RetryAfter time.Duration // with Status: the Retry-After header, in whole seconds
	Redirect   bool          // send the client to the same address again
	Truncate   bool          // break off the body of a manifest or blob half-way
	Corrupt    bool          // change the body of a manifest or blob, keeping its length
}

func (f Fault) strikes(q *Request) bool {
	return (len(f.Kinds) == 0 || slices.Contains(f.Kinds, q.Kind)) &&
		(len(f.Methods) == 0 || slices.Contains(f.Methods, q.Method))
}

// SetFaults replaces the faults of one repository ("library/alpine"), or of
// All. No faults means health. It frees requests that hang; they are judged
// again.
func (r *Registry) SetFaults(repo string, faults ...Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[repo] = faults
	r.wake()
}

// ClearFaults makes every repository healthy. It leaves RequireToken alone.
func (r *Registry) ClearFaults() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.faults)
	r.wake()
}

func (r *Registry) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// current is what strikes a request now, and a channel closed when that may
// have changed.
func (r *Registry) current(q *Request) (fault Fault, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	faults := slices.Clone(r.faults[All])
	if q.Repository != All {
		faults = append(faults, r.faults[q.Repository]...)
	}
	for _, f := range faults {
		if !f.strikes(q) {
			continue
		}
		delay := fault.Delay + f.Delay
		if !fault.broken() {
			fault = f
		}
		fault.Delay = delay
	}
	return fault, r.changed
}

func (f Fault) broken() bool { return f.Hang || f.Status != 0 || f.Redirect || f.Truncate || f.Corrupt }

// front is what the port serves: the log, then the faults, then tokens, then
// content.
func (r *Registry) front(w http.ResponseWriter, req *http.Request) {
	q := r.record(req)
	rec := &statusWriter{ResponseWriter: w, done: func(status int) { r.answered(q, status) }}
	fault, ok := r.suffer(req, q)
	if !ok {
		// The client has left: nothing is answered.
		panic(http.ErrAbortHandler)
	}
	switch {
	case fault.Redirect:
		http.Redirect(rec, req, req.URL.String(), http.StatusTemporaryRedirect)
	case fault.Status == http.StatusUnauthorized && q.Kind != Token && r.asksForTokens():
		r.challenge(rec, req, q) // a token that has expired
	case fault.Status != 0:
		if fault.RetryAfter > 0 {
			rec.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter.Seconds())))
		}
		writeError(rec, fault.Status, errorCode(fault.Status, q.Kind))
	case q.Kind == Token:
		r.serveToken(rec, req)
	case !r.authorized(req, q):
		r.challenge(rec, req, q)
	case (fault.Truncate || fault.Corrupt) && (q.Kind == Manifest || q.Kind == Blob):
		r.serveBroken(rec, req, fault)
	default:
		r.handler.ServeHTTP(rec, req)
	}
	rec.finish()
}

// suffer waits out delays and hangs. It returns false when the client left
// meanwhile.
func (r *Registry) suffer(req *http.Request, q *Request) (Fault, bool) {
	var waited time.Duration
	for {
		fault, changed := r.current(q)
		if left := fault.Delay - waited; left > 0 {
			timer := time.NewTimer(left)
			select {
			case <-timer.C:
				waited = fault.Delay
			case <-req.Context().Done():
				timer.Stop()
				return fault, false
			}
		}
		if !fault.Hang {
			return fault, true
		}
		select {
		case <-changed:
		case <-req.Context().Done():
			return fault, false
		}
	}
}

// serveBroken answers with a damaged body. A truncated one ends the connection,
// as a proxy that gives up does.
func (r *Registry) serveBroken(w *statusWriter, req *http.Request, fault Fault) {
	whole := newMemoryWriter()
	r.handler.ServeHTTP(whole, req)
	for k, v := range whole.header {
		w.Header()[k] = v
	}
	body := whole.body.Bytes()
	w.WriteHeader(whole.code())
	if whole.code() >= 300 || len(body) == 0 {
		_, _ = w.Write(body)
		return
	}
	if fault.Truncate {
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	body[len(body)/2] ^= 0x20
	_, _ = w.Write(body)
}

// errorCode is the distribution specification's name for a status.
func errorCode(status int, kind Kind) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusNotFound:
		switch kind {
		case Manifest:
			return "MANIFEST_UNKNOWN"
		case Blob:
			return "BLOB_UNKNOWN"
		}
		return "NAME_UNKNOWN"
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	}
	return "UNKNOWN"
}

// errorMessages are the texts the distribution registry gives with its codes.
var errorMessages = map[string]string{
	"UNAUTHORIZED":          "authentication required",
	"DENIED":                "requested access to the resource is denied",
	"MANIFEST_UNKNOWN":      "manifest unknown",
	"MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
	"MANIFEST_INVALID":      "manifest invalid",
	"BLOB_UNKNOWN":          "blob unknown to registry",
	"DIGEST_INVALID":        "provided digest did not match uploaded content",
	"NAME_UNKNOWN":          "repository name not known to registry",
	"TOOMANYREQUESTS":       "too many requests",
	"UNAVAILABLE":           "service unavailable",
	"UNKNOWN":               "unknown error",
}

func writeError(w http.ResponseWriter, status int, codes ...string) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	var items []item
	for _, code := range codes {
		items = append(items, item{code, errorMessages[code]})
	}
	body, _ := json.Marshal(map[string][]item{"errors": items})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
