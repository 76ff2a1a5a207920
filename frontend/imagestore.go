package frontend

import (
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker/label"

	"github.com/org/localfront/frontend/resolve"
)

// hostGateway is a label that Docker's engine gives its builder.
const hostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// resolveMode is how a name is to be resolved. Clients that build with the
// engine's own builder ask for its image store first, all but the builder in
// Docker's client itself (DOCKER_BUILDKIT=1), which leaves that to the engine.
// There as well an image may have changed in the store without a build.
func resolveMode(asked string, workers []client.WorkerInfo) resolve.Mode {
	if mode := resolve.Mode(asked); mode != resolve.Default || !hasImageStore(workers) {
		return mode
	}
	return resolve.Local
}

// hasStores reports whether the builder can take images from a content store.
// Docker's engine says so of itself, but its worker on graph drivers, which does
// not say what executes its steps as BuildKit's own do, cannot.
func hasStores(bopts client.BuildOpts) bool {
	w := bopts.Workers
	return bopts.LLBCaps.Supports(pb.CapSourceOCILayout) == nil && len(w) > 0 && w[0].Labels[label.Executor] != ""
}

// hasImageStore reports whether the builder is Docker's engine. BuildKit's own
// workers say what executes their steps; of the engine's two one does, and has
// a label of the engine's.
func hasImageStore(workers []client.WorkerInfo) bool {
	if len(workers) == 0 {
		return false
	}
	labels := workers[0].Labels
	return labels[hostGateway] != "" || labels[label.Executor] == ""
}
