package testregistry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// RequireToken puts a token endpoint in front, or takes it away: every request
// without a token is answered 401 and pointed to /token, as Docker Hub does.
// Tokens are given to anybody, for the scopes asked for and no others.
func (r *Registry) RequireToken(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = on
}

func (r *Registry) asksForTokens() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.auth
}

const tokenPrefix = "testregistry."

func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		// Clients with credentials try OAuth first, then GET.
		writeError(w, http.StatusMethodNotAllowed, "UNKNOWN")
		return
	}
	scopes := strings.Join(req.URL.Query()["scope"], " ")
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(scopes))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token":        token,
		"access_token": token,
		"expires_in":   300,
		"issued_at":    time.Now().UTC().Format(time.RFC3339),
	})
}

// authorized says whether a request needs no token or has the right one.
func (r *Registry) authorized(req *http.Request, q *Request) bool {
	if !r.asksForTokens() {
		return true
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "+tokenPrefix)
	if !ok {
		return false
	}
	scopes, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return false
	}
	return q.Repository == "" || grants(string(scopes), q.Repository, actions(req.Method))
}

// grants says whether scopes, "repository:NAME:pull,push …", allow all actions.
func grants(scopes, repo string, actions []string) bool {
	for scope := range strings.FieldsSeq(scopes) {
		granted, ok := strings.CutPrefix(scope, "repository:"+repo+":")
		if !ok {
			continue
		}
		list := strings.Split(granted, ",")
		missing := func(action string) bool {
			return !slices.Contains(list, action) && !slices.Contains(list, "*")
		}
		if !slices.ContainsFunc(actions, missing) {
			return true
		}
	}
	return false
}

func actions(method string) []string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return []string{"pull"}
	case http.MethodDelete:
		return []string{"delete"}
	}
	return []string{"pull", "push"}
}

func (r *Registry) challenge(w http.ResponseWriter, req *http.Request, q *Request) {
	c := fmt.Sprintf(`Bearer realm="http://%s/token",service=%q`, r.addr, r.addr)
	if q.Repository != "" {
		c += fmt.Sprintf(`,scope="repository:%s:%s"`, q.Repository, strings.Join(actions(req.Method), ","))
		if req.Header.Get("Authorization") != "" {
			c += `,error="insufficient_scope"`
		}
	}
	w.Header().Set("WWW-Authenticate", c)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED")
}
