package agents

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (s sandbox) value() string { return filepath.Join(s.root, "out", "value") }

func (s sandbox) check(t *testing.T, env []string, want string) {
	t.Helper()
	if err := os.RemoveAll(s.value()); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, s.start(t, os.Stderr, env, "the key")); code != 0 {
		t.Fatalf("exit status %d, want 0", code)
	}
	got, err := os.ReadFile(s.value())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("the file holds %s, want %s", brief(string(got)), brief(want))
	}
	fi, err := os.Stat(s.value())
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o444 {
		t.Errorf("the file's mode is %v, want 0444", fi.Mode())
	}
}

func brief(s string) string {
	if len(s) > 60 {
		return strconv.Quote(s[:60]) + "... of " + strconv.Itoa(len(s)) + " bytes"
	}
	return strconv.Quote(s)
}

type runCase struct {
	name string
	env  []string
	want string
}

func runCases() []runCase {
	big := func(c string) string { return strings.Repeat(c, 100<<10) }
	// Linux passes no string over 32 pages, with its name and final NUL.
	longest := strings.Repeat("x", 128<<10-len("HTTP_PROXY=")-1)
	return []runCase{
		{"no environment", nil, ""},
		{"absent", []string{"PATH=/bin", "NO_PROXY=nonce", "no_proxy=nonce"}, ""},
		{"http", []string{"HTTP_PROXY=one"}, "one"},
		{"https", []string{"HTTPS_PROXY=two"}, "two"},
		{"ftp", []string{"FTP_PROXY=three"}, "three"},
		{"all", []string{"ALL_PROXY=four"}, "four"},
		{"empty values", []string{"HTTP_PROXY=", "ALL_PROXY="}, ""},
		{"an equals sign in a value", []string{"HTTP_PROXY==a=b="}, "=a=b="},
		{"bytes that are not ASCII", []string{"HTTP_PROXY=\xff\x80 \n\x01"}, "\xff\x80 \n\x01"},
		{
			"all four, as BuildKit sets them",
			[]string{
				"PATH=/bin", "HTTP_PROXY=1", "http_proxy=1", "HTTPS_PROXY=2", "https_proxy=2",
				"FTP_PROXY=3", "ftp_proxy=3", "NO_PROXY=n", "no_proxy=n", "ALL_PROXY=4", "all_proxy=4",
			},
			"1234",
		},
		{"all four in another order", []string{"ALL_PROXY=4", "FTP_PROXY=3", "HTTPS_PROXY=2", "HTTP_PROXY=1"}, "1234"},
		{
			"names that only resemble",
			[]string{
				"HTTP_PROXYX=a", "XHTTP_PROXY=b", "HTTP_PROX=c", "http_proxy=d", "HTTP_PROXY", "HTTP",
				"A=HTTP_PROXY=e", "HTTPS_PROXY_=f", "ALL_PROXIES=g", "All_proxy=h",
			},
			"",
		},
		{"the longest value", []string{"HTTP_PROXY=" + longest}, longest},
		{
			"four values of 100 KiB",
			[]string{"ALL_PROXY=" + big("d"), "HTTP_PROXY=" + big("a"), "FTP_PROXY=" + big("c"), "HTTPS_PROXY=" + big("b")},
			big("a") + big("b") + big("c") + big("d"),
		},
	}
}

func TestRunEveryArchitecture(t *testing.T) {
	t.Parallel()
	for _, a := range arches {
		t.Run(a.goarch, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t, Ledger, a.goarch, a.qemu, "")
			for _, tt := range runCases() {
				t.Run(tt.name, func(t *testing.T) { s.check(t, tt.env, tt.want) })
			}
			t.Run("failures", func(t *testing.T) { s.checkFailures(t) })
		})
		for _, cpu := range a.cpus {
			// Which instructions there are, one run tells.
			t.Run(a.goarch+"/"+cpu, func(t *testing.T) {
				t.Parallel()
				all := []string{"HTTP_PROXY=1", "HTTPS_PROXY=2", "FTP_PROXY=3", "NO_PROXY=n", "ALL_PROXY=4"}
				newSandbox(t, Ledger, a.goarch, a.qemu, cpu).check(t, all, "1234")
			})
		}
	}
}

// checkFailures covers open and write; nothing local makes a close fail.
func (s sandbox) checkFailures(t *testing.T) {
	const openFailed, writeFailed = 1, 2
	out := filepath.Dir(s.value())
	check := func(name string, want int) {
		t.Helper()
		if got := exitCode(t, s.start(t, os.Stderr, []string{"HTTP_PROXY=x"}, "the key")); got != want {
			t.Errorf("%s: exit status %d, want %d", name, got, want)
		}
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.RemoveAll(out))
	check("no /out", openFailed)
	must(os.WriteFile(out, nil, 0o644))
	check("/out is a file", openFailed)
	must(os.MkdirAll(s.value(), 0o755))
	check("/out/value is a directory", openFailed)
	must(os.Mkdir(out, 0o755))
	must(syscall.Mknod(s.value(), syscall.S_IFCHR|0o666, 1<<8|7)) // /dev/full
	check("the disk is full", writeFailed)
}

// The first of two equal names counts. qemu-user drops one of them before the
// agent sees it, so only the machine's own architecture can show this.
func TestFirstOfDuplicatesCounts(t *testing.T) {
	s := newSandbox(t, Ledger, runtime.GOARCH, "", "")
	s.check(t, []string{"HTTP_PROXY=first", "ALL_PROXY=", "HTTP_PROXY=second", "ALL_PROXY=third"}, "first")
}

func TestReplacesAnOlderFile(t *testing.T) {
	s := newSandbox(t, Ledger, runtime.GOARCH, "", "")
	write(t, s.value(), []byte("longer than what replaces it"))
	if code := exitCode(t, s.start(t, os.Stderr, []string{"HTTP_PROXY=new"}, "the key")); code != 0 {
		t.Fatalf("exit status %d, want 0", code)
	}
	got, err := os.ReadFile(s.value())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "new" {
		t.Errorf("the file holds %q, want %q", got, "new")
	}
}

// A full pipe blocks the agent in the middle of a value, and stopping it there
// makes its write return early: the rest must follow.
func TestPartialWriteGoesOn(t *testing.T) {
	s := newSandbox(t, Ledger, runtime.GOARCH, "", "")
	if err := syscall.Mkfifo(s.value(), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(s.value(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()

	want := strings.Repeat("0123456789", 10<<10)
	p := s.start(t, os.Stderr, []string{"HTTP_PROXY=" + want, "ALL_PROXY=end"}, "the key")
	defer p.Kill()
	waitState(t, p, "S")
	for range 3 {
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		waitState(t, p, "T")
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		waitState(t, p, "S")
	}

	got, err := io.ReadAll(fifo)
	if err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, p); code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	if string(got) != want+"end" {
		t.Errorf("read %s, want %s", brief(string(got)), brief(want+"end"))
	}
}

// waitState waits until a process is in a state of proc(5): S sleeps, T is stopped.
func waitState(t *testing.T, p *os.Process, want string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		dt, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		// The state follows the name, which is in parentheses.
		_, rest, _ := strings.Cut(string(dt), ") ")
		if strings.HasPrefix(rest, want) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the agent did not reach state %s in 10 s", want)
}
