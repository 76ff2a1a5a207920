// Command frontend is the process that BuildKit starts in a container for
// `# syntax=ghcr.io/org/localfront`. It talks gRPC on stdin and stdout, so
// nothing else may ever be written to stdout; errors go to BuildKit over the
// gateway and to the daemon's log on stderr.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/util/appcontext"
	"github.com/moby/buildkit/util/bklog"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec of the gateway's messages

	"github.com/org/localfront/frontend"
)

// version is set by the linker.
var version = "devel"

func main() {
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Println("localfront", version)
		return
	}
	// A build takes a fraction of a second and some megabytes. Garbage is
	// collected from 32 MB on, in place of 4, and often only beyond 256.
	debug.SetGCPercent(800)
	debug.SetMemoryLimit(256 << 20)
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), frontend.Build); err != nil {
		bklog.L.Errorf("fatal error: %+v", err)
		os.Exit(1)
	}
}
