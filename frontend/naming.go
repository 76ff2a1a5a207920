package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"

	"github.com/org/localfront/frontend/freeze"
	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/resolve"
)

// parseNames reads the names of a build's result: image names, separated by
// commas.
func parseNames(v string) ([]reference.Named, error) {
	var names []reference.Named
	for _, text := range strings.Split(v, ",") {
		named, err := reference.ParseNormalizedNamed(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no name for an image: %w", text, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, fmt.Errorf("%q has a digest, and a name stands for what was built last: leave the digest out", text)
		}
		if reference.FamiliarName(named) == "scratch" {
			return nil, fmt.Errorf("%q always means the empty image: choose another name", text)
		}
		named = reference.TagNameOnly(named)
		if !slices.ContainsFunc(names, func(n reference.Named) bool { return n.String() == named.String() }) {
			names = append(names, named)
		}
	}
	return names, nil
}

// naming is what it takes to record the result of a build under its names.
type naming struct {
	names      []reference.Named
	recordings []*ledger.Recording
	freezer    *freeze.Freezer
	warner     *builderQueries

	pinning sync.Mutex
	pins    map[string]string // what sources from the network are now, by their id

	mu      sync.Mutex
	defs    map[client.Reference]*pb.Definition // what each reference is the result of
	against error                               // why the build cannot be recorded
}

// newNaming begins to read what is known of the names. It is nil for a build
// without names.
func newNaming(ctx context.Context, c client.Client, names []reference.Named, m *memory) *naming {
	if len(names) == 0 {
		return nil
	}
	n := &naming{names: names, warner: m.warner, defs: map[client.Reference]*pb.Definition{}, pins: map[string]string{}}
	if m.ledger == nil {
		n.against = m.defect
		return n
	}
	if n.freezer, n.against = freeze.New(c); n.against != nil {
		return n
	}
	for _, named := range names {
		n.recordings = append(n.recordings, m.ledger.Expect(context.WithoutCancel(ctx), resolve.Key(named)))
	}
	return n
}

// keys are the names as they are kept.
func keys(names []reference.Named) []string {
	var all []string
	for _, n := range names {
		all = append(all, resolve.Key(n))
	}
	return all
}

// settle returns def with its contexts frozen, so that it does not need the
// user's session. Where that cannot be the build goes on as it is, unrecorded.
func (n *naming) settle(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	if n == nil || n.cause() != nil || isDockerfile(def) {
		return def, nil
	}
	frozen, err := n.freezer.Freeze(ctx, def)
	if err == nil {
		return frozen, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	n.unrecorded(err)
	return def, nil
}

// pinNow returns def with each file and repository from the network held to what
// it is now, so that a step that runs again later finds the same. What cannot be
// pinned makes the build go on unrecorded.
func (c *decorated) pinNow(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	n := c.naming
	if n == nil || n.cause() != nil || isDockerfile(def) {
		return def, nil
	}
	return graph.Pin(def, func(r graph.Remote) (string, error) {
		// One answer for all platforms.
		n.pinning.Lock()
		defer n.pinning.Unlock()
		if v, ok := n.pins[r.ID]; ok {
			return v, nil
		}
		k, err := keyOf(r)
		if err != nil {
			return "", nil //nolint:nilerr // BuildKit's to refuse
		}
		v, err := c.value(ctx, &use{Key: k, remote: &r})
		if err != nil {
			if ctx.Err() != nil {
				return "", err
			}
			n.unrecorded(err)
		}
		n.pins[r.ID] = v
		return v, nil
	})
}

// isDockerfile reports whether def only loads a Dockerfile or a .dockerignore,
// which is not part of what is built (dockerui, ReadEntrypoint).
func isDockerfile(def *pb.Definition) bool {
	locals, err := graph.Sources(def, "local://")
	return err == nil && len(locals) == 1 && locals[0].Op.GetSource().GetAttrs()[pb.AttrLocalDiffer] == pb.AttrLocalDifferNone
}

func (n *naming) cause() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.against
}

func (n *naming) unrecorded(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.against == nil {
		n.against = why
	}
}

// solved takes note of what a reference is the result of.
func (n *naming) solved(res *client.Result, def *pb.Definition) {
	if n == nil || res == nil || res.Ref == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.defs[res.Ref] = def
}

// warn says that the build is not recorded, and what its names stand for.
func (n *naming) warn(ctx context.Context, name string, why error) {
	n.warner.warnOnce(ctx, "record "+name, fmt.Sprintf("%s is not recorded, and stands for what it did before: %v", name, why))
}

// builds returns what res is, for each platform.
func (n *naming) builds(res *client.Result) (map[string]ledger.Build, error) {
	if why := n.cause(); why != nil {
		return nil, why
	}
	var ps exptypes.Platforms
	if err := json.Unmarshal(res.Metadata[exptypes.ExporterPlatformsKey], &ps); err != nil {
		return nil, fmt.Errorf("the platforms of the result: %w", err)
	}
	builds := map[string]ledger.Build{}
	for _, p := range ps.Platforms {
		ref, configKey := res.Refs[p.ID], exptypes.ExporterImageConfigKey+"/"+p.ID
		if len(res.Refs) == 0 {
			ref, configKey = res.Ref, exptypes.ExporterImageConfigKey
		}
		n.mu.Lock()
		def := n.defs[ref]
		n.mu.Unlock()
		if ref == nil || def == nil {
			return nil, fmt.Errorf("for %s the result is empty", p.ID)
		}
		dt, err := recordOf(def)
		if err != nil {
			return nil, err
		}
		builds[platforms.FormatAll(platforms.Normalize(p.Platform))] = ledger.Build{Definition: dt, Config: res.Metadata[configKey]}
	}
	return builds, nil
}

func recordOf(def *pb.Definition) ([]byte, error) {
	rec, err := graph.Record(def)
	if err != nil {
		return nil, err
	}
	if err := graph.Fit(rec); err != nil {
		return nil, err
	}
	return graph.Marshal(rec)
}

// pending is a result with the names that it is not yet recorded under.
type pending struct {
	result ledger.Result
	under  map[string]*ledger.Recording // by what people call it
}

// pending returns what there is to record of a build that is about to succeed,
// nil if nothing is.
func (c *decorated) pending(ctx context.Context, res *client.Result) *pending {
	n := c.naming
	if n == nil {
		return nil
	}
	builds, err := n.builds(res)
	if err != nil {
		for _, named := range n.names {
			n.warn(ctx, reference.FamiliarString(named), err)
		}
		return nil
	}
	p := &pending{
		result: ledger.Result{Dockerfile: c.dockerfile(), Platforms: builds, From: madeFrom(c.names.Used()), Layers: c.layers()},
		under:  map[string]*ledger.Recording{},
	}
	for i, r := range n.recordings {
		if !r.Stands(p.result) {
			p.under[reference.FamiliarString(n.names[i])] = r
		}
	}
	if len(p.under) == 0 {
		return nil
	}
	return p
}

// record writes what there is to record, under all names at once.
func (c *decorated) record(ctx context.Context, p *pending) {
	p.result.Built = time.Now().UTC()
	p.result.Layers = c.layers()
	var wg sync.WaitGroup
	for name, r := range p.under {
		wg.Go(func() {
			err := r.Write(ctx, p.result)
			if errors.Is(err, ledger.ErrTooLarge) {
				err = fmt.Errorf("its definition is too large: %w", err)
			}
			if err != nil && ctx.Err() == nil {
				c.naming.warn(ctx, name, err)
			}
		})
	}
	wg.Wait()
}

// dockerfile is the name of the file that is built.
func (c *decorated) dockerfile() string {
	if f := c.bopts.Opts["filename"]; f != "" {
		return f
	}
	return "Dockerfile"
}

// layers returns the images of the build whose layers are known to be on the
// builder, as a ledger.Result has them.
func (c *decorated) layers() map[string]int {
	c.mu.Lock()
	images := slices.Collect(maps.Values(c.images))
	c.mu.Unlock()
	var all map[string]int
	for _, img := range images {
		ref, ok := img.Ref.(reference.Canonical)
		if !ok {
			continue
		}
		if n, ok := c.names.Layers(ref, img.Platform); ok {
			if all == nil {
				all = map[string]int{}
			}
			all[imageKey(img)] = n
		}
	}
	return all
}

func imageKey(img graph.Image) string {
	return img.Ref.String() + " " + platforms.FormatAll(img.Platform)
}

// madeFrom returns what a build that uses named results is made from, as a
// ledger.Result has it.
func madeFrom(used []resolve.Used) map[string][]string {
	if len(used) == 0 {
		return nil
	}
	all := map[string][]string{}
	add := func(name string, names ...string) {
		all[name] = append(all[name], names...)
		slices.Sort(all[name])
		all[name] = slices.Compact(all[name])
	}
	for _, u := range used {
		add("", u.Key)
		for name, names := range u.Result.From {
			if name == "" {
				name = u.Key
			}
			add(name, names...)
		}
	}
	return all
}
