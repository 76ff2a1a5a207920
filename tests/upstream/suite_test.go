package upstream

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/localfront/internal/testimage"
)

// suiteEnv chooses how much of BuildKit's Dockerfile suite is run:
//
//	(unset)              the tests of testdata/quick.txt with localfront
//	LOCALFRONT_UPSTREAM=all go test -timeout 2h -run TestSuite ./tests/upstream
//	                     every test, with the official frontend and localfront
//	… -args -update      the same, and writes testdata/official-fails.txt
//
// LOCALFRONT_UPSTREAM_LOGS=DIR keeps what the suite prints.
const (
	suiteEnv = "LOCALFRONT_UPSTREAM"
	logsEnv  = "LOCALFRONT_UPSTREAM_LOGS"
)

var update = flag.Bool("update", false, "write the list of tests that fail with the official frontend")

//go:embed testdata/quick.txt
var quickList string

//go:embed testdata/official-fails.txt
var officialFails string

// TestSuite runs BuildKit's own Dockerfile suite, as hack/upstream compiles it,
// through the gateway on the OCI worker. Whatever passes with the official
// frontend has to pass with localfront.
func TestSuite(t *testing.T) {
	if os.Getenv(suiteEnv) != "all" {
		t.Parallel()
		checkQuick(t)
		return
	}
	want := runSuite(t, "official", officialBinary, nil)
	compareFails(t, want)
	got := runSuite(t, "localfront", localfrontBinary, nil)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name] == "PASS" && got[name] != "PASS" {
			t.Errorf("%s: PASS with the official frontend, %s with localfront", name, cmp.Or(got[name], "not run"))
		}
	}
	t.Logf("official: %s; localfront: %s", count(want), count(got))
}

func checkQuick(t *testing.T) {
	names := lines(quickList)
	got := runSuite(t, "localfront", localfrontBinary, names)
	for _, name := range names {
		if got[name] != "PASS" {
			t.Errorf("%s: %s", name, cmp.Or(got[name], "not run"))
		}
	}
	t.Log(count(got))
}

// compareFails holds what fails with the official frontend against the list of
// what is known to fail on such a machine.
func compareFails(t *testing.T, results map[string]string) {
	t.Helper()
	var fails []string
	for name, result := range results {
		if result == "FAIL" {
			fails = append(fails, name)
		}
	}
	slices.Sort(fails)
	if *update {
		text := failsHeader + strings.Join(fails, "\n") + "\n"
		if err := os.WriteFile("testdata/official-fails.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	known := lines(officialFails)
	for _, name := range fails {
		if !slices.Contains(known, name) {
			t.Errorf("%s fails with the official frontend and is not in testdata/official-fails.txt", name)
		}
	}
}

const failsHeader = "# Tests of BuildKit's suite that fail with the official frontend here, for want\n" +
	"# of real images or the network. Written by TestSuite -update.\n"

func count(results map[string]string) string {
	n := map[string]int{}
	for _, result := range results {
		n[result]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d skipped", n["PASS"], n["FAIL"], n["SKIP"])
}

func lines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// matrixName is a test's name and what the harness puts after it: worker,
// frontend and more. Subtests of the test's own are left out.
var matrixName = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): TestIntegration/(Test\w+)((?:/[\w.]+=[\w.-]+)+) \(`)

// runSuite runs the named tests of the suite, all when there is no name, with
// a frontend. It returns how each went, by the name "TestX", for tests with a
// matrix of their own "TestX/security.insecure=granted".
func runSuite(t *testing.T, label string, find func() (string, error), names []string) map[string]string {
	t.Helper()
	img, err := frontendImage(find)
	if err != nil {
		t.Fatal(err)
	}
	filter := ""
	if len(names) > 0 {
		filter = "^(" + strings.Join(testsOf(names), "|") + ")$"
	}
	cmd := suiteCommand(t, img, filter)
	var tail bytes.Buffer
	log := suiteLog(t, label)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	results := map[string]string{}
	r := bufio.NewReader(pipe)
	for {
		line, err := r.ReadString('\n')
		fmt.Fprint(io.MultiWriter(log, &tail), line)
		if m := matrixName.FindStringSubmatch(line); m != nil {
			results[m[2]+ownMatrix(m[3])] = m[1]
		}
		if err != nil {
			break
		}
	}
	// 1 says that tests failed; anything else, a panic above all, that the rest
	// was not run.
	if err := cmd.Wait(); err != nil && (len(names) > 0 || cmd.ProcessState.ExitCode() != 1) {
		out := tail.String()
		t.Errorf("suite with %s: %v\n%s", label, err, out[max(0, len(out)-100_000):])
	}
	return results
}

// suiteCommand is the suite's binary, told to test one frontend on one worker.
func suiteCommand(t *testing.T, frontend v1.Image, filter string) *exec.Cmd {
	t.Helper()
	cache, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(cache, "upstream", "dockerfile.test"),
		"-test.run", "^TestIntegration$/"+filter+"/^worker=oci$",
		"-test.parallel", "2", "-test.timeout", "90m", "-test.v")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "FRONTEND_GATEWAY_ONLY=local:"+archive(t, frontend))
	return cmd
}

func suiteLog(t *testing.T, label string) io.Writer {
	t.Helper()
	dir := os.Getenv(logsEnv)
	if dir == "" {
		return io.Discard
	}
	f, err := os.Create(filepath.Join(dir, label+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// testsOf are the names without their matrix, each once.
func testsOf(names []string) []string {
	var out []string
	for _, name := range names {
		name, _, _ = strings.Cut(name, "/")
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ownMatrix leaves out of "/worker=oci/frontend=gateway/…" what is always so.
func ownMatrix(matrix string) string {
	own := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(matrix, "/"), "/") {
		if part != "worker=oci" && part != "frontend=gateway" {
			own += "/" + part
		}
	}
	return own
}
