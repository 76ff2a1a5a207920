package upstream

import (
	"bufio"
	"bytes"
	"cmp"
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
//	go test -run TestSuite ./tests/upstream
//		the tests of testdata/quick.txt with localfront
//	LOCALFRONT_UPSTREAM=all go test -timeout 2h ./tests/upstream
//		every test, with the official frontend and with localfront, and so
//		TestHarness
//	LOCALFRONT_UPSTREAM=TestX,TestY …
//		the same for these tests
//	LOCALFRONT_UPSTREAM=all … -args -update
//		all, and writes the list of what fails with the official frontend
//
// LOCALFRONT_UPSTREAM_WORKER=containerd takes the other worker, and
// LOCALFRONT_UPSTREAM_LOGS=DIR keeps what the suite prints.
const (
	suiteEnv  = "LOCALFRONT_UPSTREAM"
	workerEnv = "LOCALFRONT_UPSTREAM_WORKER"
	logsEnv   = "LOCALFRONT_UPSTREAM_LOGS"
)

var update = flag.Bool("update", false, "write the list of tests that fail with the official frontend")

// TestSuite runs BuildKit's own Dockerfile suite, as hack/upstream compiles it,
// through the gateway. Whatever passes with the official frontend has to pass
// with localfront, testdata/differs.txt apart.
func TestSuite(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon for each test of BuildKit's suite")
	}
	worker := cmp.Or(os.Getenv(workerEnv), "oci")
	var names []string
	switch which := os.Getenv(suiteEnv); which {
	case "":
		t.Parallel()
		checkQuick(t, worker)
		return
	case "all":
	default:
		names = strings.Split(which, ",")
	}
	want := runSuite(t, "official", worker, officialBinary, names)
	if names == nil {
		compareFails(t, "testdata/official-fails-"+worker+".txt", want)
	}
	got := runSuite(t, "localfront", worker, localfrontBinary, names)
	t.Logf("official: %s; localfront: %s", count(want), count(got))
	compare(t, want, got)
}

// compare fails for each test that only the official frontend passes.
func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	differs := lines(t, "testdata/differs.txt")
	for _, name := range slices.Sorted(maps.Keys(want)) {
		known := slices.ContainsFunc(differs, func(line string) bool { return strings.HasPrefix(line, name+" ") })
		switch {
		case want[name] == "PASS" && got[name] != "PASS" && !known:
			t.Errorf("%s: PASS with the official frontend, %s with localfront", name, cmp.Or(got[name], "not run"))
		case got[name] == "PASS" && known:
			t.Errorf("%s passes: take it out of testdata/differs.txt", name)
		}
	}
}

func checkQuick(t *testing.T, worker string) {
	t.Helper()
	names := lines(t, "testdata/quick.txt")
	got := runSuite(t, "localfront", worker, localfrontBinary, names)
	for _, name := range names {
		if got[name] != "PASS" {
			t.Errorf("%s: %s", name, cmp.Or(got[name], "not run"))
		}
	}
	t.Log(count(got))
}

// compareFails holds what fails with the official frontend against the list of
// what is known to fail on such a machine.
func compareFails(t *testing.T, list string, results map[string]string) {
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
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	known := lines(t, list)
	for _, name := range fails {
		if !slices.Contains(known, name) {
			t.Errorf("%s fails with the official frontend and is not in %s", name, list)
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

// lines are the lines of a file, empty ones and comments left out.
func lines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// matrixName is a test's name and what the harness puts after it: worker,
// frontend and more. Subtests of the test's own, deeper down, are left out.
var matrixName = regexp.MustCompile(`^ {4}--- (PASS|FAIL|SKIP): TestIntegration/(Test\w+)((?:/[\w.]+=[\w.-]+)+) \(`)

// runSuite runs the named tests of the suite, all when there is no name, with
// a frontend. It returns how each went, by the name "TestX", for tests with a
// matrix of their own "TestX/security.insecure=granted".
func runSuite(t *testing.T, label, worker string, find func() (string, error), names []string) map[string]string {
	t.Helper()
	img, err := frontendImage(find)
	if err != nil {
		t.Fatal(err)
	}
	filter := ""
	if len(names) > 0 {
		filter = "^(" + strings.Join(testsOf(names), "|") + ")$"
	}
	cmd := suiteCommand(t, img, worker, filter)
	var all bytes.Buffer
	log := suiteLog(t, label, worker)
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
		fmt.Fprint(io.MultiWriter(log, &all), line)
		if m := matrixName.FindStringSubmatch(line); m != nil {
			results[m[2]+ownMatrix(m[3])] = m[1]
		}
		if err != nil {
			break
		}
	}
	// 1 says that tests failed; anything else, a panic above all, that the rest
	// was not run.
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("suite with %s: %v", label, err)
	}
	if slices.Contains(slices.Collect(maps.Values(results)), "FAIL") {
		out := all.String()
		t.Logf("suite with %s:\n%s", label, out[max(0, len(out)-100_000):])
	}
	return results
}

// suiteCommand is the suite's binary, told to test one frontend on one worker.
func suiteCommand(t *testing.T, frontend v1.Image, worker, filter string) *exec.Cmd {
	t.Helper()
	cache, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(cache, "upstream", "dockerfile.test"),
		"-test.run", "^TestIntegration$/"+filter+"/^worker="+worker+"$",
		"-test.parallel", "2", "-test.timeout", "90m", "-test.v")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "FRONTEND_GATEWAY_ONLY=local:"+archive(t, frontend))
	return cmd
}

func suiteLog(t *testing.T, label, worker string) io.Writer {
	t.Helper()
	dir := os.Getenv(logsEnv)
	if dir == "" {
		return io.Discard
	}
	f, err := os.Create(filepath.Join(dir, label+"-"+worker+".log"))
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

// ownMatrix leaves worker and frontend out of "/worker=oci/frontend=gateway/…".
func ownMatrix(matrix string) string {
	own := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(matrix, "/"), "/") {
		if !strings.HasPrefix(part, "worker=") && part != "frontend=gateway" {
			own += "/" + part
		}
	}
	return own
}
