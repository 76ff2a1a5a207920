package frontend

import (
	"context"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/localfront/frontend/graph"
)

// used takes note of the images that the build takes.
func (c *decorated) used(images []graph.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, img := range images {
		key := imageKey(img)
		img.Mounted = img.Mounted || c.images[key].Mounted
		c.images[key] = img
	}
}

// remember writes what the build has learned to the ledger, once it is known
// to succeed; where that is only what registries have answered, it does not wait
// so long. A build that fails is left for the daemon to report, as with the
// official frontend.
func (c *decorated) remember(ctx context.Context, res *client.Result) {
	images := c.mounted()
	unseen := slices.ContainsFunc(images, func(img pinnedImage) bool { return c.names.Unseen(img.ref, img.platform) })
	pending := c.pending(ctx, res)
	if len(c.names.Learned()) == 0 && !unseen && pending == nil {
		if c.memory.waiting() {
			_ = evaluate(ctx, c.bopts, res) // the steps can run meanwhile
		}
		return
	}
	var wg sync.WaitGroup
	if len(images) == 0 && pending == nil {
		// There is nothing to wait for: what a registry has answered is as true
		// for a build that fails.
		wg.Go(func() { c.memory.write(ctx, c.names.Learned()) })
		_ = evaluate(ctx, c.bopts, res) // the daemon reports it
		wg.Wait()
		return
	}
	if err := evaluate(ctx, c.bopts, res); err != nil {
		return
	}
	for _, img := range images {
		wg.Go(func() { c.names.LookForLayers(ctx, img.ref, img.platform) })
	}
	wg.Wait()
	wg.Go(func() { c.memory.write(ctx, c.names.Learned()) })
	if pending != nil {
		wg.Go(func() { c.record(ctx, pending) })
	}
	wg.Wait()
}

// pinnedImage is an image that the build has used by its digest.
type pinnedImage struct {
	ref      reference.Canonical
	platform ocispecs.Platform
}

// mounted returns the images that steps of the build have run on or copied
// from, and whose layers are therefore on the builder once it has run. Results
// of steps that come from an imported cache need no layers of their base. Where
// provenance is requested there are none: it would name what looking for them
// takes as well.
func (c *decorated) mounted() []pinnedImage {
	if !c.localize || c.bopts.Opts["cache-imports"] != "" || c.bopts.Opts["cache-from"] != "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var images []pinnedImage
	for _, img := range c.images {
		if ref, ok := img.Ref.(reference.Canonical); ok && img.Mounted {
			images = append(images, pinnedImage{ref, img.Platform})
		}
	}
	return images
}

// evaluate runs all that res refers to, and fails as it fails. Engines that
// cannot be told to evaluate are made to by reading the result.
func evaluate(ctx context.Context, bopts client.BuildOpts, res *client.Result) error {
	eg, ctx := errgroup.WithContext(ctx)
	_ = res.EachRef(func(ref client.Reference) error {
		eg.Go(func() error {
			if bopts.Caps.Supports(gwpb.CapGatewayEvaluate) == nil {
				return ref.Evaluate(ctx)
			}
			_, err := ref.StatFile(ctx, client.StatRequest{Path: "."})
			return err
		})
		return nil
	})
	return eg.Wait()
}
