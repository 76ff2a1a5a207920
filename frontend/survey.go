package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/frontend/resolve"
)

// survey is what a Dockerfile takes from outside: over all its stages, for the
// platforms and build args of this build.
type survey struct {
	source *dockerui.Source
	uses   map[lockfile.Key]*use
	// asked are the image names that were looked up, also those that no lock
	// has: by digest, and named results.
	asked []resolve.Query
	// own are the names that were answered by named results, save those of
	// localhost/, with their places.
	own map[string]*use
}

// use is one source that is named, by tag, ref or address.
type use struct {
	lockfile.Key
	places  []*pb.Range // in the Dockerfile, empty for what the command line names
	queries []resolve.Query
	answer  resolve.Answer // of an image, the first
	remote  *graph.Remote  // a file or repository
	// optional is true for what the build itself does not look up: the image
	// of the # syntax= line.
	optional bool
}

// answerer answers an image name of a survey.
type answerer func(ctx context.Context, q resolve.Query) (resolve.Answer, error)

// at adds places, one for each line.
func (u *use) at(ranges []*pb.Range) {
	for _, r := range ranges {
		if !slices.ContainsFunc(u.places, func(o *pb.Range) bool { return o.Start.Line == r.Start.Line }) {
			u.places = append(u.places, r)
		}
	}
}

// surveyor is the client that a Dockerfile is surveyed on.
type surveyor struct {
	*decorated
	ask answerer

	mu    sync.Mutex
	asked []resolve.Query
	seen  map[string]*use // by name
	own   map[string]*use // named results, by the reference that stands for each
}

// ResolveImageConfig answers as the survey wishes, and takes note of the name.
func (s *surveyor) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	q, ok := s.query(ref, opt)
	if !ok {
		return s.decorated.ResolveImageConfig(ctx, ref, opt)
	}
	a, err := s.ask(ctx, q)
	if err != nil {
		return "", "", nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, q)
	if a.Own && !resolve.IsLocal(q.Name) {
		s.own[a.Ref] = &use{Key: lockfile.Key{Kind: lockfile.Image, Name: q.Name.String()}}
	}
	if _, carries := q.Name.(reference.Canonical); !carries && !a.Own && !resolve.IsLocal(q.Name) {
		u, ok := s.seen[q.Name.String()]
		if !ok {
			u = &use{Key: lockfile.Key{Kind: lockfile.Image, Name: q.Name.String()}, answer: a}
			s.seen[q.Name.String()] = u
		}
		u.queries = append(u.queries, q)
	}
	return a.Ref, a.Digest, a.Config, nil
}

// survey reads the Dockerfile through.
func (c *decorated) survey(ctx context.Context, ask answerer) (*survey, error) {
	s := &surveyor{decorated: c, ask: ask, seen: map[string]*use{}, own: map[string]*use{}}
	bc, err := dockerui.NewClient(s)
	if err != nil {
		return nil, err
	}
	src, err := bc.ReadEntrypoint(ctx, dockerui.DefaultDockerfileName)
	if err != nil {
		return nil, err
	}
	out := &survey{source: src, uses: map[lockfile.Key]*use{}, own: s.own}
	text, err := withAllStages(src.Data)
	if err != nil {
		return nil, onPlace(src, err)
	}
	targets := []*ocispecs.Platform{nil}
	if len(bc.TargetPlatforms) > 0 {
		targets = nil
		for _, p := range bc.TargetPlatforms {
			targets = append(targets, &p)
		}
	}
	for _, p := range targets {
		def, err := convert(ctx, s, bc, src, text, p)
		if err != nil {
			return nil, onPlace(src, err)
		}
		if err := out.add(c, def); err != nil {
			return nil, err
		}
	}
	if bc.SBOM != nil {
		p := bc.BuildPlatforms[0]
		if _, _, _, err := s.ResolveImageConfig(ctx, bc.SBOM.Generator, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p}}); err != nil {
			return nil, err
		}
	}
	s.frontend(ctx)
	for _, u := range s.seen {
		if was, ok := out.uses[u.Key]; ok {
			u.places = was.places
		}
		out.uses[u.Key] = u
	}
	out.asked = s.asked
	// An image that carries its digest has a place and was never asked for.
	maps.DeleteFunc(out.uses, func(k lockfile.Key, u *use) bool { return k.Kind == lockfile.Image && len(u.queries) == 0 })
	return out, nil
}

// frontend adds the image of the # syntax= line if that is by tag. BuildKit has
// resolved it before localfront ran, so nothing can hold it to a pin but the
// line itself.
func (s *surveyor) frontend(ctx context.Context) {
	word, _, _ := strings.Cut(strings.TrimSpace(s.syntax()), " ")
	named, err := reference.ParseNormalizedNamed(word)
	if err != nil {
		return // a frontend that is no image
	}
	named = reference.TagNameOnly(named)
	if _, carries := named.(reference.Canonical); carries {
		return
	}
	k := lockfile.Key{Kind: lockfile.Image, Name: named.String()}
	if _, ok := s.seen[k.Name]; ok {
		return
	}
	q := resolve.Query{Name: named, Platform: s.defaultPlatform(), Step: "[internal]"}
	a, err := s.ask(ctx, q)
	if err != nil {
		s.builder.warnOnce(ctx, "syntax", fmt.Sprintf("the image of the # syntax= line is not in the lock: %v", err))
		return
	}
	s.seen[k.Name] = &use{Key: k, answer: a, queries: []resolve.Query{q}, optional: true}
}

// syntax returns the # syntax= line, or the frontend's image where there is
// none.
func (c *decorated) syntax() string {
	if line := c.bopts.Opts[keyCmdline]; line != "" {
		return line
	}
	return c.source
}

// convert makes the definition of all stages for one platform.
func convert(ctx context.Context, s *surveyor, bc *dockerui.Client, src *dockerui.Source, text []byte, p *ocispecs.Platform) (*pb.Definition, error) {
	opt := dockerfile2llb.ConvertOpt{
		Config: bc.Config, Client: bc, SourceMap: src.SourceMap, MetaResolver: s, TargetPlatform: p,
		Warn: func(string, string, string, string, []parser.Range) {},
	}
	opt.Target = ""
	opt.BuildArgs = maps.Clone(opt.BuildArgs)
	// What lint would refuse is not the survey's matter.
	bc.LinterConfig = &linter.Config{SkipAll: true}
	res, err := dockerfile2llb.Dockerfile2LLB(ctx, text, opt)
	if err != nil {
		return nil, err
	}
	def, err := res.State.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	return def.ToPB(), nil
}

// add takes the remote sources of def, and the places of its images.
func (s *survey) add(c *decorated, def *pb.Definition) error {
	places, err := graph.Places(def)
	if err != nil {
		return err
	}
	remotes, err := graph.Remotes(def)
	if err != nil {
		return err
	}
	at := func(k lockfile.Key, ranges []*pb.Range) *use {
		u, ok := s.uses[k]
		if !ok {
			u = &use{Key: k}
			s.uses[k] = u
		}
		u.at(ranges)
		return u
	}
	for _, r := range remotes {
		k, err := keyOf(r)
		if err != nil || r.Pinned || c.lock.isMain(r) || c.fromInputs(r) {
			continue
		}
		at(k, places[r.ID]).remote = &r
	}
	images, err := graph.Images(def)
	if err != nil {
		return err
	}
	for _, img := range images {
		if own, ok := s.own[img.Ref.String()]; ok {
			own.at(places[img.Ref.String()])
			continue
		}
		name := img.Ref
		if tagged, ok := name.(reference.NamedTagged); ok {
			if name, err = reference.WithTag(reference.TrimNamed(name), tagged.Tag()); err != nil {
				return err
			}
		}
		at(lockfile.Key{Kind: lockfile.Image, Name: name.String()}, places[img.Ref.String()])
	}
	return nil
}

// sorted returns the uses in the order of a lock.
func (s *survey) sorted() []*use {
	return slices.SortedFunc(maps.Values(s.uses), func(a, b *use) int { return lockfile.Compare(a.Key, b.Key) })
}

// withAllStages returns a Dockerfile with a last stage that needs all others, so
// that its definition has all that any of them takes.
func withAllStages(text []byte) ([]byte, error) {
	ast, stages, _, err := parseDockerfile(text)
	if err != nil {
		return nil, err
	}
	// A last line that goes on would swallow the stage.
	all := bytes.TrimRight(text, " \t\r\n")
	all = bytes.TrimSuffix(slices.Clone(all), []byte(string(ast.EscapeToken)))
	all = append(all, "\nFROM scratch\n"...)
	for i := range stages {
		all = fmt.Appendf(all, "COPY --from=%d / /%d/\n", i, i)
	}
	return all, nil
}

// onPlace gives an error of the conversion its place in the Dockerfile, as
// BuildKit's frontend does.
func onPlace(src *dockerui.Source, err error) error {
	var el *parser.LocationError
	if !errors.As(err, &el) {
		return err
	}
	for _, ranges := range el.Locations {
		at := sourceOf(src)
		at.Ranges = pbRanges(ranges)
		err = errdefs.WithSource(err, at)
	}
	return err
}

// sourceOf returns the Dockerfile as errors and warnings refer to it.
func sourceOf(src *dockerui.Source) *errdefs.Source {
	return &errdefs.Source{Info: &pb.SourceInfo{
		Data:       src.Data,
		Filename:   src.Filename,
		Language:   src.Language,
		Definition: src.Definition.ToPB(),
	}}
}

func pbRanges(ranges []parser.Range) (out []*pb.Range) {
	for _, r := range ranges {
		out = append(out, &pb.Range{
			Start: &pb.Position{Line: int32(r.Start.Line), Character: int32(r.Start.Character)},
			End:   &pb.Position{Line: int32(r.End.Line), Character: int32(r.End.Character)},
		})
	}
	return out
}

// quiet answers names without asking anybody: from the lock, the builder and
// its memory, and with a stand-in where none of them has an image. Names are
// what counts; only the triggers and variables of an image that is not here
// stay unseen.
func (c *decorated) quiet() answerer {
	r := resolve.New(c.looking(), c.memory, c.memory, resolve.Options{Offline: true, Lock: c.readLock}, c.clock)
	return func(ctx context.Context, q resolve.Query) (resolve.Answer, error) {
		a, err := r.Resolve(ctx, q)
		var bad *lockfile.Error
		if err == nil || errors.As(err, &bad) || ctx.Err() != nil {
			return a, err
		}
		return standIn(q)
	}
}

// standIn answers a name with an image of one layer.
func standIn(q resolve.Query) (resolve.Answer, error) {
	img := dockerspec.DockerOCIImage{Image: ocispecs.Image{Platform: platforms.Normalize(q.Platform)}}
	img.RootFS = ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("a layer")}}
	config, err := json.Marshal(img)
	return resolve.Answer{Ref: q.Name.String(), Config: config}, err
}

// builtHere returns the names that `locked` demands a pin for while named results
// of this builder have them.
func (s *survey) builtHere() []*use {
	all := map[lockfile.Key]*use{}
	for _, ref := range slices.Sorted(maps.Keys(s.own)) { // one for each platform
		u := s.own[ref]
		if first, ok := all[u.Key]; ok {
			first.at(u.places)
			continue
		}
		all[u.Key] = u
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *use) int { return lockfile.Compare(a.Key, b.Key) })
}

// missing returns the uses that `locked` demands a pin for and f has none.
func (s *survey) missing(f *lockfile.File) (out []*use) {
	for _, u := range s.sorted() {
		if _, ok := f.Get(u.Key); ok || u.optional {
			continue
		}
		out = append(out, u)
	}
	return out
}
