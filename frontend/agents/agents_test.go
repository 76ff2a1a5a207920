package agents

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// arch is an architecture with agents: its ELF header, its qemu-user and the CPU
// models to try besides qemu's default, oldest first.
type arch struct {
	goarch  string
	machine elf.Machine
	class   elf.Class
	order   elf.Data
	qemu    string
	cpus    []string
}

var arches = []arch{
	{"amd64", elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB, "x86_64", []string{"qemu64"}},
	{"386", elf.EM_386, elf.ELFCLASS32, elf.ELFDATA2LSB, "i386", []string{"pentium"}},
	{"arm64", elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB, "aarch64", []string{"cortex-a53"}},
	{"arm", elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB, "arm", []string{"arm926", "arm1176", "cortex-a7", "max"}},
	{"ppc64le", elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB, "ppc64le", []string{"power8"}},
	{"riscv64", elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB, "riscv64", []string{"rv64"}},
	{"s390x", elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB, "s390x", []string{"max"}},
}

// limits is every agent, and a size in bytes that it stays below: each read of
// the ledger and each frozen context carries one.
var limits = map[Agent]int{Ledger: 10_000, Freeze: 20_000}

func (a Agent) binary(t *testing.T, goarch string) []byte {
	t.Helper()
	dt, err := a.For(ocispecs.Platform{OS: "linux", Architecture: goarch})
	if err != nil {
		t.Fatal(err)
	}
	return dt
}

func TestEveryBinaryIsListed(t *testing.T) {
	files, err := binaries.ReadDir("bin")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(arches) * len(limits); len(files) != want {
		t.Errorf("%d binaries are embedded, %d are tested", len(files), want)
	}
}

func TestBinariesAreSmallStaticELF(t *testing.T) {
	for agent, limit := range limits {
		for _, a := range arches {
			t.Run(string(agent)+"/"+a.goarch, func(t *testing.T) { a.check(t, agent.binary(t, a.goarch), limit) })
		}
	}
}

func (a arch) check(t *testing.T, dt []byte, limit int) {
	t.Helper()
	if len(dt) >= limit {
		t.Errorf("%d bytes, want fewer than %d", len(dt), limit)
	}
	f, err := elf.NewFile(bytes.NewReader(dt))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != a.machine || f.Class != a.class || f.Data != a.order {
		t.Errorf("built for %v %v %v, want %v %v %v", f.Machine, f.Class, f.Data, a.machine, a.class, a.order)
	}
	if f.Type != elf.ET_EXEC {
		t.Errorf("type %v, want a static executable", f.Type)
	}
	if f.Section(".dynamic") != nil {
		t.Error("has a dynamic section")
	}
	for _, p := range f.Progs {
		switch {
		case p.Type == elf.PT_DYNAMIC, p.Type == elf.PT_INTERP:
			t.Errorf("has a %v segment", p.Type)
		case p.Type == elf.PT_LOAD && p.Flags&elf.PF_W != 0:
			t.Error("has a writable segment")
		case p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0:
			t.Error("has an executable stack")
		}
	}
}

func TestFor(t *testing.T) {
	tests := []struct{ os, arch, variant, want string }{
		{"linux", "amd64", "", "amd64"},
		{"linux", "amd64", "v1", "amd64"},
		{"linux", "amd64", "v3", "amd64"},
		{"linux", "x86_64", "", "amd64"},
		{"linux", "386", "", "386"},
		{"linux", "i386", "", "386"},
		{"linux", "arm64", "", "arm64"},
		{"linux", "arm64", "v8", "arm64"},
		{"linux", "arm64", "v9", "arm64"},
		{"linux", "aarch64", "", "arm64"},
		{"linux", "arm", "", "arm"},
		{"linux", "arm", "v5", "arm"},
		{"linux", "arm", "v6", "arm"},
		{"linux", "arm", "v7", "arm"},
		{"linux", "arm", "v8", "arm"},
		{"linux", "armhf", "", "arm"},
		{"linux", "ppc64le", "", "ppc64le"},
		{"linux", "riscv64", "", "riscv64"},
		{"linux", "s390x", "", "s390x"},
		{"Linux", "AMD64", "", "amd64"},
	}
	for _, tt := range tests {
		p := ocispecs.Platform{OS: tt.os, Architecture: tt.arch, Variant: tt.variant}
		got, err := Ledger.For(p)
		if err != nil {
			t.Errorf("For(%+v): %v", p, err)
			continue
		}
		want, err := os.ReadFile(filepath.Join("bin", "ledger-linux-"+tt.want))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("For(%+v) is not the agent for %s", p, tt.want)
		}
	}
}

func TestForUnsupported(t *testing.T) {
	tests := []ocispecs.Platform{
		{OS: "windows", Architecture: "amd64"},
		{OS: "darwin", Architecture: "arm64"},
		{OS: "linux", Architecture: "mips64le"},
		{OS: "linux", Architecture: "ppc64"},
		{OS: "linux", Architecture: ""},
		{OS: "linux", Architecture: "../ledger-linux-amd64"},
	}
	for _, p := range tests {
		dt, err := Ledger.For(p)
		var unsupported *UnsupportedError
		if !errors.As(err, &unsupported) {
			t.Errorf("For(%+v) gave %d bytes and error %v, want an UnsupportedError", p, len(dt), err)
			continue
		}
		if unsupported.Agent != Ledger {
			t.Errorf("the error names agent %s, want %s", unsupported.Agent, Ledger)
		}
		if got := unsupported.Platform; got.OS != p.OS || got.Architecture != p.Architecture {
			t.Errorf("the error names %+v, want %+v", got, p)
		}
	}
}

// A sandbox is what the agent finds in its container: a root with
// /agent, and /out.
type sandbox struct {
	root string
	argv []string
}

// newSandbox returns a sandbox for an architecture. With a CPU model, or with
// an architecture that is not this machine's, the agent runs under qemu.
func newSandbox(t *testing.T, agent Agent, goarch, qemu, cpu string) sandbox {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the agent is tested in a chroot: run the tests as root")
	}
	s := sandbox{root: t.TempDir(), argv: []string{"/agent"}}
	write(t, filepath.Join(s.root, "agent"), agent.binary(t, goarch))
	if err := os.Mkdir(filepath.Join(s.root, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	if goarch == runtime.GOARCH && cpu == "" {
		return s
	}
	path := "/usr/bin/qemu-" + qemu + "-static"
	dt, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%s is needed to run the agent for %s: apt-get install qemu-user-static", path, goarch)
	}
	write(t, filepath.Join(s.root, "qemu"), dt)
	emulator := []string{"/qemu"}
	if cpu != "" {
		emulator = append(emulator, "-cpu", cpu)
	}
	s.argv = append(emulator, s.argv...)
	return s
}

func write(t *testing.T, path string, executable []byte) {
	t.Helper()
	if err := os.WriteFile(path, executable, 0o755); err != nil {
		t.Fatal(err)
	}
}

// start passes env as it is: os/exec would remove duplicates.
func (s sandbox) start(t *testing.T, stderr *os.File, env []string, args ...string) *os.Process {
	t.Helper()
	for {
		p, err := os.StartProcess(s.argv[0], append(slices.Clone(s.argv), args...), &os.ProcAttr{
			Dir:   "/",
			Env:   env,
			Files: []*os.File{nil, os.Stdout, stderr},
			Sys:   &syscall.SysProcAttr{Chroot: s.root},
		})
		// Another test that has just forked may still hold the program open as
		// this one wrote it, for an instant (go.dev/issue/22315).
		if errors.Is(err, syscall.ETXTBSY) && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func exitCode(t *testing.T, p *os.Process) int {
	t.Helper()
	state, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return state.ExitCode()
}
