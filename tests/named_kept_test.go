package tests

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"

	"github.com/org/localfront/internal/testengine"
	"github.com/org/localfront/internal/testimage"
)

// TestNamedKept: what a name keeps of its build, and what becomes of it.
func TestNamedKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, testengine.Config{Emulate: true})
	t.Run("edited", r.namedEdited)
	t.Run("platforms", r.namedPlatforms)
	t.Run("attested", r.namedAttested)
	t.Run("collected", r.namedCollected)
}

// from builds on what was named, in a directory of its own, and returns the
// files that lines leave in an image from scratch.
func (r *rig) from(t *testing.T, lines ...string) map[string]string {
	t.Helper()
	img, _ := r.image(t, r.barOf(lines...))
	return testengine.Files(t, img)
}

func (r *rig) barOf(lines ...string) testengine.BuildOpt {
	return testengine.BuildOpt{Dockerfile: r.dockerfile("", lines...), Files: map[string]string{"file": "bar's", "other": "bar's"}}
}

// wantFiles fails unless files has each of the pairs of name and content.
func wantFiles(t *testing.T, files map[string]string, pairs ...string) {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if got, ok := files[pair[0]]; !ok || got != pair[1] {
			t.Errorf("%s is %q, want %q (of %q)", pair[0], got, pair[1], files)
		}
	}
}

// namedEdited: who builds from a name gets the files that it was built with
// last, and never his own.
func (r *rig) namedEdited(t *testing.T) {
	dir := t.TempDir()
	foo := testengine.BuildOpt{Dockerfile: r.dockerfile("name=edited", "FROM REG/alpine:3.20", "COPY . /src", "RUN cat /src/file > /made"), Context: dir}
	for _, text := range []string{"first", "edited"} {
		for name, text := range map[string]string{"file": text, "other": "foo's"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r.build(t, foo)
		files := r.from(t, "FROM edited AS foo", "FROM scratch", "COPY --from=foo /src /made /", "COPY file /bar")
		wantFiles(t, files, "made", text, "file", text, "other", "foo's", "bar", "bar's")
	}
}

// namedPlatforms: a build for two platforms answers for each.
func (r *rig) namedPlatforms(t *testing.T) {
	const both = "linux/amd64,linux/arm64"
	idx, err := testimage.Index(strings.Split(both, ","))
	if err != nil {
		t.Fatal(err)
	}
	r.push(t, "multi:1", idx)
	platform := func(opt testengine.BuildOpt, platforms string) testengine.BuildOpt {
		opt.Opts = map[string]string{"platform": platforms}
		return opt
	}
	r.build(t, platform(testengine.BuildOpt{
		Dockerfile: r.dockerfile("name=localhost/both", "FROM REG/multi:1", "COPY file /", "RUN uname -m > /arch"), Files: map[string]string{"file": "foo's\n"},
	}, both))
	r.reg.Stop()
	r.reg.Reset()
	defer func() {
		if err := r.reg.Start(); err != nil {
			t.Error(err)
		}
	}()
	bar := platform(r.barOf("FROM localhost/both AS foo", "RUN read arch < /arch; read file < /file; echo $arch $file > /bar", "FROM scratch", "COPY --from=foo /bar /"), both)
	out := testengine.ExportOCI(t)
	bar.Exports = []client.ExportEntry{out.Entry}
	r.build(t, bar)
	wantFiles(t, testengine.Files(t, out.Image(t, "linux/amd64")), "bar", "x86_64 foo's\n")
	wantFiles(t, testengine.Files(t, out.Image(t, "linux/arm64")), "bar", "aarch64 foo's\n")

	files := r.from(t, "FROM --platform=linux/arm64 localhost/both AS arm", "FROM --platform=linux/amd64 localhost/both AS amd",
		"FROM scratch", "COPY --from=arm /arch /arm", "COPY --from=amd /arch /amd")
	wantFiles(t, files, "arm", "aarch64\n", "amd", "x86_64\n")

	_, err = r.tryBuild(t, r.barOf("FROM --platform=linux/s390x localhost/both", "COPY file /"))
	wantError(t, err, "localhost/both:latest was built on this builder for linux/amd64, linux/arm64, not for linux/s390x")
	r.wantNoRequests(t)
}

// scanned is an SBOM scanner that finds the files of foo and of its base.
const scanned = `
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<END
{
  "_type": "https://in-toto.io/Statement/v0.1",
  "predicateType": "https://spdx.dev/Document",
  "predicate": {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "found $(cat "$BUILDKIT_SCAN_SOURCE/etc/release") $(cat "$BUILDKIT_SCAN_SOURCE/added")"}
}
END
`

// namedAttested: the attestations of what is made from a name tell of what that
// is made from.
func (r *rig) namedAttested(t *testing.T) {
	r.push(t, "scanner:1", busybox(t, "scanner", testimage.File("/scan.sh", scanned), testimage.Config(func(c *v1.ConfigFile) {
		c.Config.Entrypoint, c.Config.Cmd = []string{"sh", "/scan.sh"}, nil
	})))
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("added")) }))
	defer site.Close()
	r.build(t, testengine.BuildOpt{
		Dockerfile: r.dockerfile("name=attested", "FROM REG/alpine:3.20", "ADD "+site.URL+"/source /added", "RUN true"),
	})
	out := testengine.ExportOCI(t)
	bar := r.barOf("FROM attested", "RUN touch bar")
	bar.Exports = []client.ExportEntry{out.Entry}
	bar.Opts = map[string]string{"attest:provenance": "mode=max", "attest:sbom": "generator=" + r.reg.Ref("scanner:1")}
	r.build(t, bar)
	all := strings.Join(materials(t, out), "\n")
	alpine, err := r.reg.Digest("alpine:3.20")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"alpine@3.20?digest=" + alpine, site.URL + "/source"} {
		if !strings.Contains(all, want) {
			t.Errorf("no material has %q:\n%s", want, all)
		}
	}
	if bom := string(bytes.Join(statements(t, out), []byte("\n"))); !strings.Contains(bom, "found 3.20 added") {
		t.Errorf("the SBOM does not tell of foo's files:\n%s", bom)
	}
}

const (
	stepRecords = `description~="from exec /bin/sh"`
	copyRecords = `description~="COPY"`
)

// namedCollected: of a name's steps only some are left. They run again from its
// own record on its own files; where those are gone too, the error says what to
// build. What is in the directory of the build that asks is never taken.
func (r *rig) namedCollected(t *testing.T) {
	foo := testengine.BuildOpt{
		Dockerfile: r.dockerfile("name=part", "FROM REG/alpine:3.20", "COPY . /src", uuid, "RUN cat /src/file /src/other > /made"),
		Files:      map[string]string{"file": "foo's ", "other": "own"},
	}
	r.build(t, foo)
	bar := []string{"FROM part AS foo", "RUN cat /made > /bar", "FROM scratch", "COPY --from=foo /bar /uuid /", "COPY --from=foo /src/file /f", "COPY . /mine"}
	before := r.from(t, bar...)
	check := func(t *testing.T) {
		t.Helper()
		files := r.from(t, bar...)
		wantFiles(t, files, "bar", "foo's own", "f", "foo's ", "mine/file", "bar's")
		if files["uuid"] == before["uuid"] {
			t.Error("the step was not collected")
		}
		before = files
	}
	wantFiles(t, before, "bar", "foo's own", "f", "foo's ")
	for _, gone := range [][]string{{copyRecords, stepRecords}, {copyRecords, stepRecords, takenRecords}} {
		freezeRig{r}.pruneAll(t, gone...)
		if len(gone) < 3 {
			check(t)
			continue
		}
		_, err := r.tryBuild(t, r.barOf(bar...))
		wantError(t, err, "the named result part is no longer whole on this builder", `the files of its context "context" were collected, so build part again`)
	}
	r.build(t, foo)
	check(t)
}
