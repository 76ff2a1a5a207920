package agents

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// plan makes a tree out of bytes that somebody chose: each few of them are an
// entry. What the file system refuses is left out.
type plan struct {
	bytes []byte
	root  string
	dirs  []string
	files []string
}

func (p *plan) next() byte {
	if len(p.bytes) == 0 {
		return 0
	}
	b := p.bytes[0]
	p.bytes = p.bytes[1:]
	return b
}

func (p *plan) number() uint32 {
	return binary.BigEndian.Uint32([]byte{p.next(), p.next(), p.next(), p.next()})
}

// name is a name that no other entry has, of bytes that may be anything.
func (p *plan) name() string {
	number := fmt.Sprintf("%d", len(p.dirs)+len(p.files))
	switch p.next() % 8 {
	case 0:
		return "..." + number
	case 1:
		return "tmp-0000000" + number
	case 2:
		return strings.Repeat("n", 255-len(number)) + number
	case 3:
		return "\n\x1b[31m\\" + number
	case 4:
		return "-rf " + number
	default:
		raw := []byte{p.next(), p.next(), p.next()}
		for i, b := range raw {
			if b == 0 || b == '/' {
				raw[i] = 'x'
			}
		}
		return string(raw) + number
	}
}

// targets are where a symlink must not lead anybody.
var targets = []string{"/outside", "../outside", "../../outside/secret", "..", ".", "/", "/cache", "/out", "/proc/self/root", strings.Repeat("x", 4000)}

// build makes the tree below root.
func (p *plan) build(t *testing.T) {
	t.Helper()
	p.dirs = []string{p.root}
	for n := 0; len(p.bytes) > 0 && n < 60; n++ {
		path := filepath.Join(p.dirs[int(p.next())%len(p.dirs)], p.name())
		var err error
		switch p.next() % 9 {
		case 0, 1:
			if err = os.Mkdir(path, 0o700); err == nil {
				p.dirs = append(p.dirs, path)
			}
		case 2:
			err = os.Symlink(targets[int(p.next())%len(targets)], path)
		case 3:
			if len(p.files) == 0 {
				continue
			}
			err = os.Link(p.files[int(p.next())%len(p.files)], path)
		case 4:
			kind := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK}[p.next()%4]
			err = unix.Mknod(path, kind, int(unix.Mkdev(p.number()&0xfff, p.number()&0xfffff)))
		case 5: // holes
			if err = os.WriteFile(path, []byte{p.next()}, 0o600); err == nil {
				err = os.Truncate(path, int64(p.number()%(2<<20)))
			}
		default:
			size := int(p.next())
			size = min(size, len(p.bytes))
			err = os.WriteFile(path, p.bytes[:size], 0o600)
			p.bytes = p.bytes[size:]
		}
		if err == nil {
			p.adorn(path)
		}
	}
}

// adorn gives an entry attributes, an owner, a mode and a time.
func (p *plan) adorn(path string) {
	st, err := os.Lstat(path)
	if err != nil {
		return
	}
	link := st.Mode()&os.ModeSymlink != 0
	if !st.IsDir() {
		p.files = append(p.files, path)
	}
	what := p.next()
	if what&1 != 0 {
		_ = os.Lchown(path, int(p.number()), int(p.number()))
	}
	if what&2 != 0 && !link {
		_ = unix.Chmod(path, p.number()&0o7777)
	}
	if what&4 != 0 && (st.IsDir() || st.Mode().IsRegular()) {
		for range p.next() % 5 {
			name := []string{"user.x", "user." + strings.Repeat("n", 250), "security.capability", "trusted.x", fmt.Sprintf("user.%x", p.next())}[p.next()%5]
			value := strings.Repeat(string(rune('a'+p.next()%26)), 1<<(p.next()%17))
			if name == "security.capability" {
				value = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			}
			_ = unix.Lsetxattr(path, name, []byte(value), 0)
		}
	}
	if what&8 != 0 {
		ts := unix.NsecToTimespec(int64(int32(p.number()))*int64(time.Second) + int64(p.number()%1e9))
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
}

// withOutside puts something beside what the agent may touch. The function that
// is returned checks that it is as it was.
func (f freezer) withOutside(t *testing.T) (check func()) {
	t.Helper()
	must(t, os.MkdirAll(f.path("outside", "d"), 0o755))
	must(t, os.WriteFile(f.path("outside", "secret"), []byte("outside"), 0o600))
	must(t, os.WriteFile(f.path("outside", "d", "f"), []byte("outside"), 0o600))
	before := describe(t, f.path("outside"))
	names := func() (all []string) {
		entries, err := os.ReadDir(f.root)
		must(t, err)
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	root := names()
	return func() {
		t.Helper()
		if diff := cmp.Diff(before, describe(t, f.path("outside"))); diff != "" {
			t.Errorf("what is outside was changed:\n%s", diff)
		}
		if diff := cmp.Diff(root, names()); diff != "" {
			t.Errorf("what is beside /in, /cache and /out:\n%s", diff)
		}
	}
}

// FuzzFreeze: whatever a context holds, what comes out of the agent is what was
// put in, under the digest that it has by the rules, and nothing else is touched.
// A tree that cannot be copied is an error that says so.
func FuzzFreeze(f *testing.F) {
	for seed := range byte(8) {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(i)*(2*seed+1) + seed
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := native(t)
		unharmed := s.withOutside(t)
		(&plan{bytes: data, root: s.path("in")}).build(t)
		want := describe(t, s.path("in"))
		digest := treeDigest(want)
		for range 2 {
			code, said := s.run(t, "keep", day)
			if code != 0 {
				t.Fatalf("keep: exit status %d: %s", code, said)
			}
			got, err := os.ReadFile(s.path("out", "digest"))
			must(t, err)
			if string(got) != digest {
				t.Fatalf("the digest is %s, want %s", got, digest)
			}
			must(t, os.Remove(s.path("out", "digest")))
		}
		for _, args := range [][]string{{"lend", digest, "1"}, {"take", digest}} {
			if code, said := s.run(t, args...); code != 0 {
				t.Fatalf("%q: exit status %d: %s%s", args, code, said, cmp.Diff(want, describe(t, s.path("out"))))
			}
			if diff := cmp.Diff(want, describe(t, s.path("out"))); diff != "" {
				t.Fatalf("%q (-put in +taken out):\n%s", args, diff)
			}
			must(t, os.RemoveAll(s.path("out")))
			must(t, os.Mkdir(s.path("out"), 0o755))
		}
		s.wantCache(t)
		if diff := cmp.Diff(want, describe(t, s.path("in"))); diff != "" {
			t.Errorf("the context was changed:\n%s", diff)
		}
		unharmed()
	})
}

// flip exchanges two entries again and again until it is stopped.
func flip(a, b string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(done); <-ended }
}

// TestFreezeRace: somebody exchanges directories and files for symlinks to what
// is outside, while the agent copies them, in the context and in the cache. It
// never follows one: nothing from there comes into the cache or the result.
func TestFreezeRace(t *testing.T) {
	t.Parallel()
	const rounds = 6
	s := native(t)
	unharmed := s.withOutside(t)
	must(t, os.Mkdir(s.path("in", "d"), 0o755))
	must(t, os.WriteFile(s.path("in", "d", "f"), []byte("inside"), 0o644))
	must(t, os.WriteFile(s.path("in", "secret"), []byte("inside"), 0o644))
	for i := range 50 { // so that it takes a while to come to d and to leave it
		must(t, os.WriteFile(s.path("in", "d", fmt.Sprint(i)), nil, 0o644))
		must(t, os.WriteFile(s.path("in", fmt.Sprint(i)), nil, 0o644))
	}
	digest := treeDigest(describe(t, s.path("in")))
	links := func(dir ...string) (d, f string) {
		d, f = filepath.Join(s.path(dir...), "link-d"), filepath.Join(s.path(dir...), "link-f")
		must(t, os.RemoveAll(d))
		must(t, os.RemoveAll(f))
		must(t, os.Symlink("/outside/d", d))
		must(t, os.Symlink("/outside/secret", f))
		return d, f
	}
	d, f := links()
	codes := map[string]map[int]int{}
	// run stops those who exchange files before it looks at what came of it.
	run := func(stops []func(), args ...string) {
		code, said := s.run(t, args...)
		for _, stop := range stops {
			stop()
		}
		if code != 0 && !strings.HasPrefix(said, "freeze: ") {
			t.Errorf("%q: exit status %d: %q", args, code, said)
		}
		if codes[args[0]] == nil {
			codes[args[0]] = map[int]int{}
		}
		codes[args[0]][code]++
		for _, dir := range []string{"cache", "out"} {
			for path, n := range describe(t, s.path(dir)) {
				if n.Content == "outside" {
					t.Errorf("%q: %s/%s came from outside", args, dir, path)
				}
			}
		}
		if got := treeDigest(describe(t, s.path("out"))); args[0] == "take" && code == 0 && got != digest {
			t.Errorf("took %s, want %s", got, digest)
		}
		must(t, os.RemoveAll(s.path("out")))
		must(t, os.Mkdir(s.path("out"), 0o755))
	}
	for range rounds {
		run([]func(){flip(s.path("in", "d"), d), flip(s.path("in", "secret"), f)}, "keep", day)
		s.settle(t, "in", "d", d)
		s.settle(t, "in", "secret", f)
		must(t, os.RemoveAll(s.path("cache")))
		must(t, os.Mkdir(s.path("cache"), 0o755))
		if got := s.keep(t); got != digest {
			t.Fatalf("the digest is %s, want %s", got, digest)
		}
		// The tree is taken from where somebody knows that it is read.
		other, another := links("cache")
		tree := s.path("cache", "tmp-00000000")
		run([]func(){flip(filepath.Join(tree, "d"), other), flip(filepath.Join(tree, "secret"), another)}, "take", digest)
	}
	t.Logf("exit statuses: %v", codes)
	must(t, os.Remove(d))
	must(t, os.Remove(f))
	unharmed()
}

// settle puts an entry of a directory back that was exchanged for a link.
func (f freezer) settle(t *testing.T, dir, name, link string) {
	t.Helper()
	if st, err := os.Lstat(link); err == nil && st.Mode()&os.ModeSymlink == 0 {
		must(t, unix.Renameat2(unix.AT_FDCWD, f.path(dir, name), unix.AT_FDCWD, link, unix.RENAME_EXCHANGE))
	}
}
