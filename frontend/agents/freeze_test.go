package agents

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/org/localfront/internal/await"
)

// What the freezing agent exits with, see enum status in freeze.c.
const (
	statusUsage  = 1
	statusOutput = 3
	statusAbsent = 4
	statusDigest = 5
)

// day is what the agent is told to think long.
const day = "86400"

// freezer is a sandbox of the freezing agent.
type freezer struct{ sandbox }

func newFreezer(t *testing.T, a arch) freezer {
	t.Helper()
	f := freezer{newSandbox(t, Freeze, a.goarch, a.qemu, "")}
	for _, dir := range []string{"in", "cache"} {
		must(t, os.Mkdir(f.path(dir), 0o755))
	}
	return f
}

// native is a freezer of the machine's own architecture.
func native(t *testing.T) freezer { t.Helper(); return newFreezer(t, arch{goarch: runtime.GOARCH}) }

func (f freezer) path(names ...string) string {
	return filepath.Join(append([]string{f.root}, names...)...)
}

// run runs the agent and returns its exit status and what it said.
func (f freezer) run(t *testing.T, args ...string) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	p := f.start(t, w, nil, args...)
	must(t, w.Close())
	said, err := io.ReadAll(r)
	must(t, err)
	return exitCode(t, p), string(said)
}

// keep runs the agent on /in and returns the digest.
func (f freezer) keep(t *testing.T) string {
	t.Helper()
	if code, said := f.run(t, "keep", day); code != 0 {
		t.Fatalf("keep: exit status %d: %s", code, said)
	}
	dt, err := os.ReadFile(f.path("out", "digest"))
	must(t, err)
	must(t, os.Remove(f.path("out", "digest")))
	return string(dt)
}

// tree is where the tree of a digest is in the cache.
func (f freezer) tree(digest string) string {
	return f.path("cache", strings.TrimPrefix(digest, "sha256:"))
}

func (f freezer) wantTake(t *testing.T, digest string, want int) {
	t.Helper()
	if code, said := f.run(t, "take", digest); code != want {
		t.Errorf("take: exit status %d, want %d: %s", code, want, said)
	}
}

// wantCache checks what is in the cache.
func (f freezer) wantCache(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(f.path("cache"))
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the cache (-want +got):\n%s", diff)
	}
}

// roundTrip takes /in into the cache and out of it, and compares.
func (f freezer) roundTrip(t *testing.T) {
	t.Helper()
	want := describe(t, f.path("in"))
	digest := f.keep(t)
	if d := treeDigest(want); digest != d {
		t.Errorf("the digest is %s, want %s", digest, d)
	}
	f.wantTake(t, digest, 0)
	if diff := cmp.Diff(want, describe(t, f.path("out"))); diff != "" {
		t.Errorf("the tree (-put in +taken out):\n%s", diff)
	}
	f.wantCache(t) // the tree has left it
}

func TestFreezeEveryArchitecture(t *testing.T) {
	t.Parallel()
	for _, a := range arches {
		t.Run(a.goarch, func(t *testing.T) {
			t.Parallel()
			f := newFreezer(t, a)
			oddTree(t, f.path("in"))
			f.roundTrip(t)
		})
	}
}

func TestFreezeRandomTrees(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			f := native(t)
			randomTree(t, rand.New(rand.NewPCG(seed, 0)), f.path("in"))
			f.roundTrip(t)
		})
	}
}

// The kernel copies between two directories of one file system, not between
// two file systems.
func TestFreezeAcrossFileSystems(t *testing.T) {
	t.Parallel()
	f := native(t)
	mountTmpfs(t, f.path("cache"), "size=64m")
	oddTree(t, f.path("in"))
	f.roundTrip(t)
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestFreezeEmpty(t *testing.T) {
	t.Parallel()
	native(t).roundTrip(t)
}

// The root's time says when the builder last received a file, so it is that of
// the newest entry instead.
func TestFreezeRootTime(t *testing.T) {
	t.Parallel()
	f := native(t)
	must(t, os.WriteFile(f.path("in", "f"), nil, 0o644))
	when := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	must(t, os.Chtimes(f.path("in", "f"), when, when))
	one := f.keep(t)
	must(t, os.Chtimes(f.path("in"), when.AddDate(9, 0, 0), when.AddDate(9, 0, 0)))
	if two := f.keep(t); two != one {
		t.Errorf("the root's time changes the digest from %s to %s", one, two)
	}
	f.wantTake(t, one, 0)
	fi, err := os.Stat(f.path("out"))
	must(t, err)
	if !fi.ModTime().Equal(when) {
		t.Errorf("the root's time is %v, want %v", fi.ModTime(), when)
	}
}

// A tree deeper than a path can say, or a process have files open.
func TestFreezeDeep(t *testing.T) {
	t.Parallel()
	const depth = 1100 // of 5 bytes each: 5,500, and with 1,024 files open at most
	f := native(t)
	fd, err := unix.Open(f.path("in"), unix.O_DIRECTORY, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(fd, "deep", 0o755))
		fd = below(t, fd)
	}
	must(t, unix.Symlinkat("end", fd, "end"))
	must(t, unix.Close(fd))

	f.wantTake(t, f.keep(t), 0)
	f.wantCache(t)
	fd, err = unix.Open(f.path("out"), unix.O_DIRECTORY, 0)
	must(t, err)
	for range depth {
		fd = below(t, fd)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "end", &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Errorf("at the end: %v", err)
	}
	must(t, unix.Close(fd))
}

// below opens the directory deep in fd, which it closes.
func below(t *testing.T, fd int) int {
	t.Helper()
	next, err := unix.Openat(fd, "deep", unix.O_DIRECTORY, 0)
	must(t, err)
	must(t, unix.Close(fd))
	return next
}

func TestFreezeManyFiles(t *testing.T) {
	t.Parallel()
	const count = 3_000
	f := native(t)
	for i := range count {
		must(t, os.WriteFile(f.path("in", fmt.Sprintf("a file with quite a long name, which fills listings, number %d", i)), []byte{byte(i)}, 0o644))
	}
	for i := range 600 { // more than the table of links holds at first
		must(t, os.Link(f.path("in", fmt.Sprintf("a file with quite a long name, which fills listings, number %d", i)), f.path("in", fmt.Sprint(i))))
	}
	f.roundTrip(t)
}

func TestFreezeHoles(t *testing.T) {
	t.Parallel()
	const hole = 8 << 20
	f := native(t)
	in, err := os.Create(f.path("in", "sparse"))
	must(t, err)
	for _, at := range []int64{0, hole} {
		_, err = in.WriteAt([]byte("data"), at)
		must(t, err)
	}
	must(t, in.Truncate(hole+hole/2))
	must(t, in.Close())
	f.roundTrip(t)
	var st unix.Stat_t
	must(t, unix.Stat(f.path("out", "sparse"), &st))
	if size := st.Blocks * 512; size > hole/8 {
		t.Errorf("the copy takes %d bytes on disk", size)
	}
}

func TestFreezeKeepsOnce(t *testing.T) {
	t.Parallel()
	f := native(t)
	oddTree(t, f.path("in"))
	digest := f.keep(t)
	before, err := os.Stat(f.tree(digest))
	must(t, err)
	if again := f.keep(t); again != digest {
		t.Errorf("the second digest is %s, the first %s", again, digest)
	}
	after, err := os.Stat(f.tree(digest))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("the tree was copied again")
	}
}

func TestFreezeTakesOnce(t *testing.T) {
	t.Parallel()
	f := native(t)
	digest := f.keep(t)
	f.wantTake(t, digest, 0)
	code, said := f.run(t, "take", digest)
	if code != statusAbsent || !strings.Contains(said, "no such file") {
		t.Errorf("exit status %d, want %d: %s", code, statusAbsent, said)
	}
}

func TestFreezeLends(t *testing.T) {
	t.Parallel()
	f := native(t)
	oddTree(t, f.path("in"))
	want := describe(t, f.path("in"))
	digest := f.keep(t)
	for _, args := range [][]string{{"lend", digest, "1"}, {"lend", digest, "2"}, {"take", digest}} {
		must(t, os.RemoveAll(f.path("out")))
		must(t, os.Mkdir(f.path("out"), 0o755))
		if code, said := f.run(t, args...); code != 0 {
			t.Fatalf("%q: exit status %d: %s", args, code, said)
		}
		if diff := cmp.Diff(want, describe(t, f.path("out"))); diff != "" {
			t.Errorf("%q (-put in +taken out):\n%s", args, diff)
		}
	}
	f.wantCache(t)
}

// tamperings change a tree in the cache that has "f", a file, "d/g", "l", a
// symlink, and "h", a second name of f.
var tamperings = map[string]func(t *testing.T, tree string){
	"a byte": func(t *testing.T, tree string) {
		f, err := os.OpenFile(filepath.Join(tree, "f"), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("X"), 1)
		must(t, err)
		must(t, f.Close())
		restoreTime(t, filepath.Join(tree, "f"))
	},
	"cut off": func(t *testing.T, tree string) {
		must(t, os.Truncate(filepath.Join(tree, "f"), 3))
		restoreTime(t, filepath.Join(tree, "f"))
	},
	"longer": func(t *testing.T, tree string) {
		must(t, os.Truncate(filepath.Join(tree, "f"), 300))
		restoreTime(t, filepath.Join(tree, "f"))
	},
	"mode":         func(t *testing.T, tree string) { must(t, unix.Chmod(filepath.Join(tree, "f"), 0o4755)) },
	"owner":        func(t *testing.T, tree string) { must(t, os.Lchown(filepath.Join(tree, "l"), 1, 0)) },
	"group":        func(t *testing.T, tree string) { must(t, os.Lchown(filepath.Join(tree, "d"), 0, 1)) },
	"time":         func(t *testing.T, tree string) { must(t, os.Chtimes(filepath.Join(tree, "f"), epoch, epoch)) },
	"root's mode":  func(t *testing.T, tree string) { must(t, unix.Chmod(tree, 0o777)) },
	"an attribute": func(t *testing.T, tree string) { must(t, unix.Lsetxattr(filepath.Join(tree, "d"), "user.x", nil, 0)) },
	"another file": func(t *testing.T, tree string) { must(t, os.WriteFile(filepath.Join(tree, "x"), nil, 0o644)) },
	"a file less":  func(t *testing.T, tree string) { must(t, os.Remove(filepath.Join(tree, "d", "g"))) },
	"another name": func(t *testing.T, tree string) {
		must(t, os.Rename(filepath.Join(tree, "h"), filepath.Join(tree, "i")))
	},
	"empty":          func(t *testing.T, tree string) { must(t, os.RemoveAll(tree)); must(t, os.Mkdir(tree, 0o755)) },
	"another target": func(t *testing.T, tree string) { relink(t, filepath.Join(tree, "l"), "/etc/passwd") },
	"not linked": func(t *testing.T, tree string) {
		must(t, os.Remove(filepath.Join(tree, "h")))
		must(t, os.WriteFile(filepath.Join(tree, "h"), []byte("content"), 0o644))
		restoreTime(t, filepath.Join(tree, "h"))
		restoreTime(t, tree)
	},
	"a link for a file": func(t *testing.T, tree string) { relink(t, filepath.Join(tree, "d", "g"), "../f") },
	"a link for a directory": func(t *testing.T, tree string) {
		must(t, os.RemoveAll(filepath.Join(tree, "d")))
		must(t, os.Symlink("/in/d", filepath.Join(tree, "d")))
	},
	"a fifo for a file": func(t *testing.T, tree string) {
		must(t, os.Remove(filepath.Join(tree, "d", "g")))
		must(t, unix.Mkfifo(filepath.Join(tree, "d", "g"), 0o644))
	},
	"a link for the tree": func(t *testing.T, tree string) {
		must(t, os.RemoveAll(tree))
		must(t, os.Symlink("/in", tree))
	},
	"a file for the tree": func(t *testing.T, tree string) {
		must(t, os.RemoveAll(tree))
		must(t, os.WriteFile(tree, nil, 0o644))
	},
}

var epoch = time.Unix(1_000_000_000, 0)

func restoreTime(t *testing.T, path string) { t.Helper(); must(t, os.Chtimes(path, epoch, epoch)) }

func relink(t *testing.T, path, target string) {
	t.Helper()
	must(t, os.Remove(path))
	must(t, os.Symlink(target, path))
}

func TestFreezeTampered(t *testing.T) {
	t.Parallel()
	for name, tamper := range tamperings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := native(t)
			in := f.path("in")
			must(t, os.WriteFile(filepath.Join(in, "f"), []byte("content"), 0o644))
			must(t, os.Link(filepath.Join(in, "f"), filepath.Join(in, "h")))
			must(t, os.Mkdir(filepath.Join(in, "d"), 0o755))
			must(t, os.WriteFile(filepath.Join(in, "d", "g"), []byte("g"), 0o644))
			must(t, os.Symlink("d", filepath.Join(in, "l")))
			restoreTime(t, filepath.Join(in, "f"))
			want := describe(t, in)

			digest := f.keep(t)
			if name == "time" {
				must(t, os.Chtimes(filepath.Join(f.tree(digest), "f"), epoch.Add(1), epoch.Add(1)))
			} else {
				tamper(t, f.tree(digest))
			}
			f.wantTake(t, digest, statusDigest)
			f.wantCache(t)
			if diff := cmp.Diff(want, describe(t, in)); diff != "" {
				t.Errorf("what the cache pointed to was changed:\n%s", diff)
			}

			must(t, os.RemoveAll(f.path("out")))
			must(t, os.Mkdir(f.path("out"), 0o755))
			f.roundTrip(t)
		})
	}
}

// Who changes a tree and its name so that they agree has a tree that nobody asks
// for, and one that says it is another is found out.
func TestFreezeTamperedTwice(t *testing.T) {
	t.Parallel()
	f := native(t)
	must(t, os.WriteFile(f.path("in", "f"), []byte("content"), 0o644))
	digest := f.keep(t)
	must(t, os.WriteFile(filepath.Join(f.tree(digest), "f"), []byte("CONTENT"), 0o644))
	forged := treeDigest(describe(t, f.tree(digest)))
	must(t, os.Rename(f.tree(digest), f.tree(forged)))
	f.wantTake(t, digest, statusAbsent)

	must(t, os.CopyFS(f.tree(digest), os.DirFS(f.tree(forged))))
	f.wantTake(t, digest, statusDigest)
	must(t, os.RemoveAll(f.path("out")))
	must(t, os.Mkdir(f.path("out"), 0o755))
	must(t, os.RemoveAll(f.tree(forged)))
	f.roundTrip(t)
}

// A file where a tree should be is not taken for the tree that is there
// already.
func TestFreezeKeepMendsAFile(t *testing.T) {
	t.Parallel()
	f := native(t)
	digest := f.keep(t)
	must(t, os.Remove(f.tree(digest)))
	must(t, os.WriteFile(f.tree(digest), nil, 0o644))
	f.keep(t)
	f.wantTake(t, digest, 0)
}

func TestFreezeFullDisk(t *testing.T) {
	t.Parallel()
	f := native(t)
	must(t, os.Mkdir(f.path("in", "d"), 0o755))
	must(t, os.WriteFile(f.path("in", "d", "big"), make([]byte, 2<<20), 0o644))
	t.Run("keep", func(t *testing.T) {
		mountTmpfs(t, f.path("cache"), "size=1m")
		code, said := f.run(t, "keep", day)
		if code != statusOutput || said != "freeze: cannot write d/big: no space left on device\n" {
			t.Errorf("exit status %d, want %d: %s", code, statusOutput, said)
		}
		f.wantCache(t) // nothing is left that takes up the disk
	})
	t.Run("take", func(t *testing.T) {
		digest := f.keep(t)
		mountTmpfs(t, f.path("out"), "size=1m")
		f.wantTake(t, digest, statusOutput)
		f.wantCache(t, filepath.Base(f.tree(digest))) // it is not the tree's fault
	})
}

// What was left by agents that were stopped goes when it is old.
func TestFreezeSweeps(t *testing.T) {
	t.Parallel()
	f := native(t)
	must(t, os.MkdirAll(f.path("cache", "tmp-00000000", "half", "a"), 0))
	must(t, os.WriteFile(f.path("cache", "stray"), nil, 0o644))
	old := f.keep(t)
	if got, err := os.ReadDir(f.path("cache")); err != nil || len(got) != 3 {
		t.Fatalf("the cache has %v, error %v: what is new has to stay", got, err)
	}
	waitForNextSecond(t, f.tree(old))
	must(t, os.WriteFile(f.path("in", "new"), nil, 0o644))
	if code, said := f.run(t, "keep", "0"); code != 0 {
		t.Fatalf("exit status %d: %s", code, said)
	}
	dt, err := os.ReadFile(f.path("out", "digest"))
	must(t, err)
	f.wantCache(t, filepath.Base(f.tree(string(dt))))
}

// waitForNextSecond waits until what changes now is a second newer than path.
func waitForNextSecond(t *testing.T, path string) {
	t.Helper()
	var old, now unix.Stat_t
	must(t, unix.Stat(path, &old))
	probe := filepath.Join(t.TempDir(), "probe")
	await.Until(t, "the next second", func() (string, bool) {
		must(t, os.WriteFile(probe, nil, 0o644))
		must(t, unix.Stat(probe, &now))
		return fmt.Sprint(now.Ctim), now.Ctim.Sec > old.Ctim.Sec
	})
}

// Agents that work in one cache at the same moment never see half a tree.
func TestFreezeConcurrent(t *testing.T) {
	t.Parallel()
	main := native(t)
	oddTree(t, main.path("in"))
	want := treeDigest(describe(t, main.path("in")))
	var wg sync.WaitGroup
	for range 4 {
		f := native(t)
		must(t, os.Remove(f.path("cache")))
		must(t, os.Remove(f.path("in")))
		bind(t, main.path("cache"), f.path("cache"))
		bind(t, main.path("in"), f.path("in"))
		wg.Go(func() {
			for range 3 {
				if err := f.keepAndTake(t, want); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// bind makes a directory appear at another place.
func bind(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.Mkdir(to, 0o755))
	must(t, unix.Mount(from, to, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// keepAndTake does what a build does: it keeps again what others have taken
// meanwhile.
func (f freezer) keepAndTake(t *testing.T, want string) error {
	for range 100 {
		if code, said := f.run(t, "keep", day); code != 0 {
			return fmt.Errorf("keep: exit status %d: %s", code, said)
		}
		if err := os.Remove(f.path("out", "digest")); err != nil {
			return err
		}
		code, said := f.run(t, "take", want)
		switch code {
		case 0:
			if got := treeDigest(describe(t, f.path("out"))); got != want {
				return fmt.Errorf("took %s, want %s", got, want)
			}
		case statusAbsent: // taken
		default:
			return fmt.Errorf("take: exit status %d: %s", code, said)
		}
		if err := errors.Join(os.RemoveAll(f.path("out")), os.Mkdir(f.path("out"), 0o755)); err != nil {
			return err
		}
		if code == 0 {
			return nil
		}
	}
	return errors.New("others took the tree a hundred times")
}

func TestFreezeUsage(t *testing.T) {
	t.Parallel()
	f := native(t)
	hex := strings.Repeat("0", 64)
	for _, args := range [][]string{
		{}, {"keep"}, {"keep", ""}, {"keep", "1x"}, {"keep", "-1"}, {"keep", "9999999999"}, {"take"}, {"drop", "1"},
		{"take", hex}, {"take", "sha256:" + hex[1:]}, {"take", "sha256:" + hex + "0"},
		{"take", "sha256:" + strings.Repeat("../", 21) + "a"}, {"take", "sha256:" + hex, "more"},
		{"lend", "sha256:" + hex}, {"lend", hex, "again"},
	} {
		code, said := f.run(t, args...)
		if code != statusUsage || !strings.HasPrefix(said, "freeze: run it as ") {
			t.Errorf("%q: exit status %d, want %d: %s", args, code, statusUsage, said)
		}
	}
}

// A message names the path, whatever bytes are in it.
func TestFreezeMessage(t *testing.T) {
	t.Parallel()
	f := native(t)
	must(t, os.MkdirAll(f.path("in", "a\x1b[31m", "b"), 0o755))
	must(t, os.WriteFile(f.path("in", "a\x1b[31m", "b", "c"), make([]byte, 2<<20), 0o644))
	mountTmpfs(t, f.path("cache"), "size=1m")
	_, said := f.run(t, "keep", day)
	if want := "freeze: cannot write a\\x1b[31m/b/c: no space left on device\n"; said != want {
		t.Errorf("it said %q, want %q", said, want)
	}
}
