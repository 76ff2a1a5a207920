package testengine

import (
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// Result is what a build told and returned.
type Result struct {
	ExporterResponse map[string]string
	Vertices         []*Vertex // in the order they were first heard of
	Warnings         []*client.VertexWarning
}

// Vertex is one progress line at the end of the build.
type Vertex struct {
	Digest    digest.Digest
	Inputs    []digest.Digest
	Name      string
	Cached    bool
	Error     string
	Started   *time.Time // nil when it never ran
	Completed *time.Time
	Log       string            // stdout and stderr
	Statuses  map[string]string // by id, such as a blob being fetched: "current/total"
}

// add takes in one message of the progress stream.
func (r *Result) add(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		old := r.vertex(v.Digest)
		old.Name, old.Inputs, old.Error = v.Name, v.Inputs, v.Error
		old.Started, old.Completed = v.Started, v.Completed
		old.Cached = old.Cached || v.Cached
	}
	for _, l := range s.Logs {
		r.vertex(l.Vertex).Log += string(l.Data)
	}
	for _, st := range s.Statuses {
		r.vertex(st.Vertex).Statuses[st.ID] = fmt.Sprintf("%d/%d", st.Current, st.Total)
	}
	r.Warnings = append(r.Warnings, s.Warnings...)
}

func (r *Result) vertex(d digest.Digest) *Vertex {
	for _, v := range r.Vertices {
		if v.Digest == d {
			return v
		}
	}
	v := &Vertex{Digest: d, Statuses: map[string]string{}}
	r.Vertices = append(r.Vertices, v)
	return v
}

// Vertex is the first vertex whose name contains the text, or nil.
func (r *Result) Vertex(text string) *Vertex {
	for _, v := range r.Vertices {
		if strings.Contains(v.Name, text) {
			return v
		}
	}
	return nil
}

// Names are the names of all vertices.
func (r *Result) Names() []string {
	var names []string
	for _, v := range r.Vertices {
		names = append(names, v.Name)
	}
	return names
}

// Executed are the names of the vertices that ran, internal ones left out.
func (r *Result) Executed() []string {
	var names []string
	for _, v := range r.Vertices {
		if v.Completed != nil && !v.Cached && v.Error == "" && !strings.HasPrefix(v.Name, "[internal]") {
			names = append(names, v.Name)
		}
	}
	return names
}

// Digest is the digest of the exported image or index, empty without one.
func (r *Result) Digest() string { return r.ExporterResponse["containerimage.digest"] }

// WarningText is the short text of all warnings, one a line.
func (r *Result) WarningText() string {
	var b strings.Builder
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "%s\n", w.Short)
	}
	return b.String()
}

// String is the build's progress as text, for failure messages.
func (r *Result) String() string {
	var b strings.Builder
	for _, v := range r.Vertices {
		fmt.Fprintf(&b, "#%s %s", v.Digest.Encoded()[:min(8, len(v.Digest.Encoded()))], v.Name)
		switch {
		case v.Error != "":
			fmt.Fprintf(&b, " ERROR: %s", v.Error)
		case v.Cached:
			b.WriteString(" CACHED")
		case v.Started != nil && v.Completed != nil:
			fmt.Fprintf(&b, " %s", v.Completed.Sub(*v.Started).Round(time.Millisecond))
		}
		b.WriteString("\n")
		for line := range strings.Lines(v.Log) {
			b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	if len(r.Warnings) > 0 {
		b.WriteString("warnings:\n" + r.WarningText())
	}
	return b.String()
}
