package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/internal/testengine"
)

// side is one frontend with a daemon of its own.
type side struct {
	name     string
	client   *client.Client
	frontend string // reference of its image
	digest   string // of that image
	learns   bool   // it is localfront
	// inside is the same frontend, to run in this process.
	inside gateway.BuildFunc
}

// facts are what can be said of a build, as named texts. Two builds are the
// same when their facts are.
type facts map[string]string

// run is everything that one side did with one case.
type run struct {
	facts
	image map[string][]byte // the exported OCI layout, for a closer look
	// digests of the vertices of the builds, in their order
	vertices []map[string]string
	third    facts // of localfront alone
}

// calls are the subrequests that buildx sends as --call. Of a broken case, only
// lint is asked: it answers with the error where the others fail like the build.
func calls(broken bool) []string {
	if broken {
		return []string{lint.RequestLint}
	}
	return []string{lint.RequestLint, outline.RequestSubrequestsOutline, targets.RequestTargets}
}

// way is how a case is built.
type way struct {
	asksFirst bool // the subrequests come before the first build
	byImage   bool // the first build is the image's
}

// build runs a case: once with export, once more warm, a third time to see that
// localfront has learned all there is, and its subrequests. The first builds of
// broken cases, since errors change on their way out of a container, and of half
// of the good ones are made by the frontend's image, and so are all with
// provenance. All others are made by the same frontend in this process, on the
// same daemon's gateway: a container for each would be most of what this test
// costs.
func (s *side) build(ctx context.Context, st *stage, w way) (*run, error) {
	r := &run{facts: facts{}}
	sess, output, err := s.session(ctx, st)
	if err != nil {
		return nil, err
	}
	defer sess.Close()
	by := func(image bool) gateway.BuildFunc {
		// The image is part of what provenance says of the build.
		if image || st.opts["attest:provenance"] != "" {
			return s.image
		}
		return s.inside
	}
	if w.asksFirst {
		s.ask(ctx, st, sess, r.facts, calls(st.broken)...)
	}
	first := s.solve(ctx, st, sess, by(w.byImage), export{kind: client.ExporterOCI, attrs: s.exportAttrs(st)})
	r.vertices = append(r.vertices, first.digests())
	first.record("first", s.tell(st), r.facts)
	if first.err == nil {
		if r.image, err = readTar(bytes.NewReader(output.take())); err != nil {
			return nil, fmt.Errorf("exported image: %w", err)
		}
		if err := recordImage(r, st, s.tell(st)); err != nil {
			return nil, err
		}
	}
	if !w.asksFirst {
		s.ask(ctx, st, sess, r.facts, calls(st.broken)...)
	}
	if st.broken {
		return r, nil // a failure is as cold the second time
	}
	warm := func(title string, f facts) {
		attrs := s.exportAttrs(st)
		attrs["oci-mediatypes"] = "true"
		built := s.solve(ctx, st, sess, by(false), export{kind: client.ExporterImage, attrs: attrs})
		built.record(title, s.tell(st), f)
		r.vertices = append(r.vertices, built.digests())
	}
	warm("second", r.facts)
	if s.learns {
		r.third = facts{}
		warm("third", r.third)
	}
	if st.unsteady() {
		maps.DeleteFunc(r.facts, func(fact, _ string) bool { return unsteadyFacts.MatchString(fact) })
	}
	return r, nil
}

func (s *side) exportAttrs(st *stage) map[string]string {
	if st.has("no-epoch") {
		return map[string]string{}
	}
	return map[string]string{"rewrite-timestamp": "true"}
}

// session opens one session for all builds of a case: with the same session,
// the same build has the same vertex digests.
func (s *side) session(ctx context.Context, st *stage) (*session.Session, *outputBuffer, error) {
	sess, err := session.NewSession(ctx, "parity")
	if err != nil {
		return nil, nil, err
	}
	output := &outputBuffer{}
	attachables, err := st.attachables(output)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range attachables {
		sess.Allow(a)
	}
	go func() { _ = sess.Run(ctx, s.client.Dialer()) }()
	return sess, output, nil
}

type export struct {
	kind  string
	attrs map[string]string
}

// solved is what came of one request.
type solved struct {
	err      error
	metadata map[string][]byte
	response map[string]string
	status   status
}

// solve builds once, and again where the daemon was too busy to start the
// frontend.
func (s *side) solve(ctx context.Context, st *stage, sess *session.Session, by gateway.BuildFunc, exp export) *solved {
	for {
		start := time.Now()
		out := s.solveOnce(ctx, st, sess, by, exp)
		if out.err == nil || ctx.Err() != nil || !testengine.TooBusy(start, out.err.Error()) {
			return out
		}
	}
}

func (s *side) solveOnce(ctx context.Context, st *stage, sess *session.Session, by gateway.BuildFunc, exp export) *solved {
	out := &solved{}
	ch := make(chan *client.SolveStatus)
	var wg sync.WaitGroup
	wg.Go(func() { out.status.collect(ch) })
	opt := s.options(st, sess)
	opt.Exports = []client.ExportEntry{{Type: exp.kind, Attrs: exp.attrs}}
	resp, err := s.client.Build(ctx, opt, "parity", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		res, err := by(ctx, c)
		if err != nil {
			out.err = err
			return nil, err
		}
		out.metadata = maps.Clone(res.Metadata)
		return res, nil
	}, ch)
	wg.Wait()
	if out.err == nil {
		out.err = err
	}
	if resp != nil {
		out.response = resp.ExporterResponse
	}
	return out
}

// image sends a request through gateway.v0, as BuildKit does for a syntax line.
func (s *side) image(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	return c.Solve(ctx, gateway.SolveRequest{Frontend: "gateway.v0", FrontendOpt: maps.Clone(c.BuildOpts().Opts)})
}

func (s *side) options(st *stage, sess *session.Session) client.SolveOpt {
	attrs := maps.Clone(st.opts)
	attrs["source"] = s.frontend
	attrs["cmdline"] = s.frontend
	return client.SolveOpt{FrontendAttrs: attrs, SharedSession: sess, SessionPreInitialized: true, Internal: true}
}

// withOpts is a client with options of its own.
type withOpts struct {
	gateway.Client
	opts map[string]string
}

func (c withOpts) BuildOpts() gateway.BuildOpts {
	b := c.Client.BuildOpts()
	b.Opts = c.opts
	return b
}

// ask sends subrequests, side by side, and records their answers.
func (s *side) ask(ctx context.Context, st *stage, sess *session.Session, f facts, names ...string) {
	var mu sync.Mutex
	opt := s.options(st, sess)
	_, err := s.client.Build(ctx, opt, "parity", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		eg, ctx := errgroup.WithContext(ctx)
		for _, name := range names {
			eg.Go(func() error {
				opts := maps.Clone(opt.FrontendAttrs)
				opts["requestid"] = name
				opts["frontend.caps"] = "moby.buildkit.frontend.subrequests"
				res, err := s.inside(ctx, withOpts{c, opts})
				mu.Lock()
				defer mu.Unlock()
				recordAnswer(name, res, err, s.tell(st), f)
				return nil
			})
		}
		return gateway.NewResult(), eg.Wait()
	}, nil)
	if err != nil {
		f["subrequests"] = s.tell(st)(err.Error())
	}
}

func recordAnswer(name string, res *gateway.Result, err error, tell func(string) string, f facts) {
	if err != nil {
		recordError(name, err, tell, f)
		return
	}
	for key, value := range res.Metadata {
		f[name+" "+key] = tell(describeDefinitions(key, value))
	}
}

// tell makes texts of this side comparable: placeholders for what belongs to
// this case and to this frontend.
func (s *side) tell(st *stage) func(string) string {
	name, _, _ := strings.Cut(s.frontend, "@")
	purl := "pkg:docker/" + strings.Replace(name, ":", "%3A", 1)
	purl = purl[:strings.LastIndex(purl, ":")] + "@" + purl[strings.LastIndex(purl, ":")+1:]
	replace := strings.NewReplacer(s.frontend, "FRONTEND", purl, "pkg:FRONTEND",
		s.digest, "FRONTEND-DIGEST", strings.TrimPrefix(s.digest, "sha256:"), "FRONTEND-DIGEST")
	return func(text string) string {
		return namedResultHint.ReplaceAllString(st.names.collapse(replace.Replace(text)), "")
	}
}

// record turns one build into facts.
func (o *solved) record(title string, tell func(string) string, f facts) {
	if o.err != nil {
		recordError(title, o.err, tell, f)
	}
	f[title+" metadata keys"] = strings.Join(sortedKeys(o.metadata), "\n")
	for key, value := range o.metadata {
		f[title+" metadata "+key] = tell(string(value))
	}
	for key, value := range o.response {
		f[title+" response "+key] = tell(value)
	}
	f[title+" warnings"] = tell(o.status.warnings())
	f[title+" progress"] = normalizeProgress(o.status.names(), tell)
	if o.err != nil {
		f[title+" logs"] = o.status.logs(tell)
	}
}

// recordError describes an error the way a client can see it.
func recordError(title string, err error, tell func(string) string, f facts) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\ncode %v\n", err, grpcerrors.Code(err))
	if exit := new(gwpb.ExitError); errors.As(err, &exit) {
		fmt.Fprintf(&b, "exit %d\n", exit.ExitCode)
	}
	if sub := new(errdefs.UnsupportedSubrequestError); errors.As(err, &sub) {
		fmt.Fprintf(&b, "unsupported subrequest %s\n", sub.GetName())
	}
	f[title+" error"] = refIDs.ReplaceAllString(tell(b.String()), "ref ID")
	b.Reset()
	for _, src := range errdefs.Sources(err) {
		fmt.Fprintf(&b, "%s %s", src.Info.GetFilename(), sha256Of([]byte(tell(string(src.Info.GetData()))))[:19])
		for _, r := range src.Ranges {
			fmt.Fprintf(&b, " %d:%d-%d:%d", r.GetStart().GetLine(), r.GetStart().GetCharacter(),
				r.GetEnd().GetLine(), r.GetEnd().GetCharacter())
		}
		fmt.Fprintf(&b, " language %q definition %t\n", src.Info.GetLanguage(), src.Info.GetDefinition() != nil)
	}
	f[title+" error position"] = b.String()
}

// digests are the vertex digests of a build, by digest, with their names.
func (o *solved) digests() map[string]string {
	all := map[string]string{}
	for digest, v := range o.status.vertexes {
		all[digest] = v.Name
	}
	return all
}

// status is what a build's status stream said.
type status struct {
	vertexes map[string]*client.Vertex
	warned   []*client.VertexWarning
	output   map[string][]byte // by vertex digest and stream
}

func (s *status) collect(ch chan *client.SolveStatus) {
	s.vertexes, s.output = map[string]*client.Vertex{}, map[string][]byte{}
	for st := range ch {
		for _, v := range st.Vertexes {
			s.vertexes[v.Digest.String()] = v
		}
		s.warned = append(s.warned, st.Warnings...)
		for _, l := range st.Logs {
			key := fmt.Sprintf("%s %d", l.Vertex, l.Stream)
			s.output[key] = append(s.output[key], l.Data...)
		}
	}
}

func (s *status) names() []string {
	var all []string
	for _, v := range s.vertexes {
		all = append(all, v.Name)
	}
	return all
}

func (s *status) warnings() string {
	var all []string
	for _, w := range s.warned {
		var b strings.Builder
		vertex := "unknown vertex"
		if v := s.vertexes[w.Vertex.String()]; v != nil {
			vertex = v.Name
		}
		fmt.Fprintf(&b, "%s\n  level %d, %s, url %q, %s", w.Short, w.Level, vertex, w.URL, w.SourceInfo.GetFilename())
		for _, r := range w.Range {
			fmt.Fprintf(&b, " %d:%d-%d:%d", r.GetStart().GetLine(), r.GetStart().GetCharacter(),
				r.GetEnd().GetLine(), r.GetEnd().GetCharacter())
		}
		for _, d := range w.Detail {
			fmt.Fprintf(&b, "\n  %s", d)
		}
		all = append(all, b.String())
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (s *status) logs(tell func(string) string) string {
	var all []string
	for key, data := range s.output {
		digest, stream, _ := strings.Cut(key, " ")
		name := digest
		if v := s.vertexes[digest]; v != nil {
			name = v.Name
		}
		if bookkeeping.MatchString(name) {
			continue
		}
		all = append(all, tell(fmt.Sprintf("%s, stream %s:\n%s", name, stream, data)))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// outputBuffer receives the exported tar.
type outputBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *outputBuffer) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *outputBuffer) Close() error { return nil }

func (o *outputBuffer) take() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Bytes()
}

var _ io.WriteCloser = (*outputBuffer)(nil)

const buildTimeout = 5 * time.Minute
