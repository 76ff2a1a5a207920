package testengine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/tonistiigi/fsutil"
)

// BuildOpt is one build, in the terms of the docker build command. Dockerfile
// and Files together are the context directory, as with "docker build .".
type BuildOpt struct {
	// Frontend is the frontend image and the words after it, all that follows
	// "# syntax=": it is used as buildx uses BUILDKIT_SYNTAX. When empty, the
	// daemon's own frontend reads the Dockerfile's syntax line.
	Frontend string

	Dockerfile string            // its text; when empty, the one in the context
	Filename   string            // its name in the context; "Dockerfile" when empty
	Context    string            // a directory, used where it is (see Dockerfile)
	Files      map[string]string // further files of the context, by relative path

	Opts          map[string]string // frontend options: "build-arg:X", "target", "platform", …
	Exports       []client.ExportEntry
	CacheImports  []client.CacheOptionsEntry
	CacheExports  []client.CacheOptionsEntry
	NamedContexts map[string]string // by name: "docker-image://…", "oci-layout://…", or a directory
	OCIStores     map[string]content.Store
	Secrets       map[string][]byte
	SSH           []sshprovider.AgentConfig
	Session       []session.Attachable
	Entitlements  []string
	SourcePolicy  *spb.Policy
	Internal      bool   // keep the build out of the daemon's history
	Ref           string // the build's id, made up when empty

	// Watch, if set, sees each message of the progress before anything else
	// is done with it, one at a time.
	Watch func(*client.SolveStatus)
}

// Build runs one build on a daemon. The result holds what the progress stream
// told, also when there is an error; the error is the client's own, with the
// sources and stack that errdefs finds in it.
//
// Files goes into a fresh directory. With Context, the Dockerfile's text comes
// from a directory of its own, as "docker build -f" elsewhere does.
func Build(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt) (*Result, error) {
	t.Helper()
	return build(ctx, t, d, opt, func(c *client.Client, solve client.SolveOpt, ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		return c.Solve(ctx, nil, solve, ch)
	})
}

// Run runs a build in which frontend, in this process, takes the place of the
// image that the Dockerfile's syntax line names. What it returns is as with
// Build. A container for each build is most of what tests cost.
func Run(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt, frontend gateway.BuildFunc) (*Result, error) {
	t.Helper()
	return build(ctx, t, d, opt, func(c *client.Client, solve client.SolveOpt, ch chan *client.SolveStatus) (*client.SolveResponse, error) {
		if _, ok := solve.FrontendAttrs["cmdline"]; !ok {
			solve.FrontendAttrs["source"], solve.FrontendAttrs["cmdline"], _, _ = parser.DetectSyntax([]byte(opt.Dockerfile))
		}
		solve.Frontend = ""
		return c.Build(ctx, solve, "", frontend, ch)
	})
}

// BuildInside is Run where the Dockerfile's syntax line names image, and Build
// where it names another frontend or none.
func BuildInside(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt, image string, frontend gateway.BuildFunc) (*Result, error) {
	t.Helper()
	if named, _, _, _ := parser.DetectSyntax([]byte(opt.Dockerfile)); named != image {
		return Build(ctx, t, d, opt)
	}
	return Run(ctx, t, d, opt, frontend)
}

// MustRun is Run for builds that have to succeed.
func MustRun(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt, frontend gateway.BuildFunc) *Result {
	t.Helper()
	res, err := Run(ctx, t, d, opt, frontend)
	if err != nil {
		t.Fatalf("build in this process: %v\n%s", err, res)
	}
	return res
}

// runner sends a build to the daemon.
type runner func(*client.Client, client.SolveOpt, chan *client.SolveStatus) (*client.SolveResponse, error)

// startLimit is how long BuildKit waits for the first byte of a frontend after
// it has begun to start its container (http2's prefaceTimeout). Then the build
// fails with dropped. On a machine that is that busy one builds again.
const (
	startLimit = 10 * time.Second
	dropped    = "frontend grpc server closed unexpectedly"
)

// build sends a build to the daemon, and again where that was too busy to start
// the frontend.
func build(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt, run runner) (*Result, error) {
	t.Helper()
	for {
		start := time.Now()
		res, err := buildOnce(ctx, t, d, opt, run)
		if err == nil || ctx.Err() != nil || !TooBusy(start, err.Error()) {
			return res, err
		}
		t.Logf("the daemon was too busy to start the frontend, so the build is sent again: %v", err)
	}
}

// TooBusy reports whether what a build that began at start has said means that
// its frontend was dropped.
func TooBusy(start time.Time, said string) bool {
	return time.Since(start) >= startLimit && strings.Contains(said, dropped)
}

func buildOnce(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt, run runner) (*Result, error) {
	t.Helper()
	// No t.Fatal in here: tests build in goroutines of their own as well.
	res := &Result{}
	solve, err := opt.solveOpt(t)
	if err != nil {
		return res, err
	}
	c, err := client.New(ctx, d.Addr())
	if err != nil {
		return res, fmt.Errorf("dial buildkitd: %w", err)
	}
	defer c.Close()

	ch := make(chan *client.SolveStatus)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for s := range ch {
			if opt.Watch != nil {
				opt.Watch(s)
			}
			res.add(s)
		}
	}()
	resp, err := run(c, solve, ch)
	<-collected
	if resp != nil {
		res.ExporterResponse = resp.ExporterResponse
	}
	return res, err
}

// MustBuild is Build for builds that have to succeed.
func MustBuild(ctx context.Context, t testing.TB, d *Buildkitd, opt BuildOpt) *Result {
	t.Helper()
	res, err := Build(ctx, t, d, opt)
	if err != nil {
		t.Fatalf("build: %v\n%s", err, res)
	}
	return res
}

func (opt BuildOpt) solveOpt(t testing.TB) (client.SolveOpt, error) {
	t.Helper()
	attrs := map[string]string{"filename": opt.filename()}
	frontend := "dockerfile.v0"
	if opt.Frontend != "" {
		frontend = "gateway.v0"
		attrs["source"], _, _ = strings.Cut(opt.Frontend, " ")
		attrs["cmdline"] = opt.Frontend
	}
	mounts, err := opt.mounts(t)
	if err != nil {
		return client.SolveOpt{}, err
	}
	for name, value := range opt.NamedContexts {
		if !filepath.IsAbs(value) {
			attrs["context:"+name] = value
			continue
		}
		attrs["context:"+name] = "local:" + name
		if mounts[name], err = fsutil.NewFS(value); err != nil {
			return client.SolveOpt{}, fmt.Errorf("named context %s: %w", name, err)
		}
	}
	maps.Copy(attrs, opt.Opts)
	attachables := append([]session.Attachable{secretsprovider.FromMap(opt.Secrets)}, opt.Session...)
	if len(opt.SSH) > 0 {
		ssh, err := sshprovider.NewSSHAgentProvider(opt.SSH)
		if err != nil {
			return client.SolveOpt{}, fmt.Errorf("ssh agents: %w", err)
		}
		attachables = append(attachables, ssh)
	}
	return client.SolveOpt{
		Frontend: frontend, FrontendAttrs: attrs, LocalMounts: mounts,
		Exports: opt.Exports, CacheImports: opt.CacheImports, CacheExports: opt.CacheExports,
		OCIStores: opt.OCIStores, Session: attachables, AllowedEntitlements: opt.Entitlements,
		SourcePolicy: opt.SourcePolicy, Internal: opt.Internal, Ref: opt.Ref,
	}, nil
}

func (opt BuildOpt) filename() string {
	if opt.Filename == "" {
		return "Dockerfile"
	}
	return opt.Filename
}

// mounts are the two directories every Dockerfile build has.
func (opt BuildOpt) mounts(t testing.TB) (map[string]fsutil.FS, error) {
	t.Helper()
	context, err := opt.contextDir(t)
	if err != nil {
		return nil, err
	}
	dockerfile := context
	if opt.Context != "" && opt.Dockerfile != "" {
		dockerfile = t.TempDir()
		if err := writeFiles(dockerfile, map[string]string{opt.filename(): opt.Dockerfile}); err != nil {
			return nil, err
		}
	}
	mounts := map[string]fsutil.FS{}
	for name, dir := range map[string]string{"context": context, "dockerfile": dockerfile} {
		if mounts[name], err = fsutil.NewFS(dir); err != nil {
			return nil, fmt.Errorf("local directory %s: %w", name, err)
		}
	}
	return mounts, nil
}

func (opt BuildOpt) contextDir(t testing.TB) (string, error) {
	t.Helper()
	if opt.Context != "" {
		if len(opt.Files) > 0 {
			return "", fmt.Errorf("a build has either Context or Files")
		}
		return opt.Context, nil
	}
	files := maps.Clone(opt.Files)
	if opt.Dockerfile != "" {
		if files == nil {
			files = map[string]string{}
		}
		files[opt.filename()] = opt.Dockerfile
	}
	dir := t.TempDir()
	return dir, writeFiles(dir, files)
}

// writeFiles writes files by relative path; names that end in a slash are
// directories.
func writeFiles(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("write context: %w", err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write context: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write context: %w", err)
		}
	}
	return nil
}
