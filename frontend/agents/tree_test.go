package agents

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// must fails the test for the error of the call inside.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is all of an entry of a tree that a copy has to keep, and comparable.
type node struct {
	Mode, UID, GID uint32
	Mtime          string
	Target         string // of a symlink
	Device         uint64
	Content        string
	Xattrs         string // name=value in hex, one a line, sorted
	Same           string // the first path of the same file, if it is another
}

// describe returns every entry below root by its path, "." for root itself,
// which has no time of its own.
func describe(t *testing.T, root string) map[string]node {
	t.Helper()
	nodes := map[string]node{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		n, st := describeNode(t, path)
		if rel == "." {
			n.Mtime = ""
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if n.Same = first[st.Ino]; n.Same == "" {
				first[st.Ino] = rel
			}
		}
		nodes[rel] = n
		return nil
	}))
	return nodes
}

func describeNode(t *testing.T, path string) (node, unix.Stat_t) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	n := node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Mtime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		must(t, err)
		n.Target = target
	case unix.S_IFREG:
		dt, err := os.ReadFile(path)
		must(t, err)
		n.Content = string(dt)
		n.Xattrs = strings.Join(xattrs(t, path), "\n")
	case unix.S_IFDIR:
		n.Xattrs = strings.Join(xattrs(t, path), "\n")
	default:
		n.Device = st.Rdev
	}
	return n, st
}

// xattrs lists name=value, in hex, of the attributes that are content, in byte order of
// their names.
func xattrs(t *testing.T, path string) []string {
	t.Helper()
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	must(t, err)
	var out []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		out = append(out, name+"="+hex.EncodeToString(value[:size]))
	}
	slices.SortFunc(out, func(a, b string) int {
		a, _, _ = strings.Cut(a, "=")
		b, _, _ = strings.Cut(b, "=")
		return cmp.Compare(a, b)
	})
	return out
}

// digester takes the digest of a tree by the rules that freeze.c states, from
// what describe returns.
type digester struct {
	hash.Hash
	nodes   map[string]node
	below   map[string][]string // names by directory, sorted
	entries map[string]uint64
	count   uint64
}

// treeDigest is what the agent has to find for a tree.
func treeDigest(nodes map[string]node) string {
	d := &digester{Hash: sha256.New(), nodes: nodes, below: map[string][]string{}, entries: map[string]uint64{}}
	for path := range nodes {
		if path != "." {
			d.below[filepath.Dir(path)] = append(d.below[filepath.Dir(path)], filepath.Base(path))
		}
	}
	d.directory(".", "")
	return "sha256:" + hex.EncodeToString(d.Sum(nil))
}

func (d *digester) number(n uint64) { d.Write(binary.BigEndian.AppendUint64(nil, n)) }

func (d *digester) bytes(s string) {
	d.number(uint64(len(s)))
	d.Write([]byte(s))
}

func (d *digester) head(kind, name string, n node) {
	d.Write([]byte(kind))
	d.bytes(name)
	d.number(uint64(n.Mode))
	d.number(uint64(n.UID)<<32 | uint64(n.GID))
	var sec, nsec int64
	_, _ = fmt.Sscanf(n.Mtime, "%d.%d", &sec, &nsec) // the root has none
	d.number(uint64(sec))
	d.number(uint64(nsec))
}

func (d *digester) xattrs(n node) {
	if n.Xattrs == "" {
		d.number(0)
		return
	}
	list := strings.Split(n.Xattrs, "\n")
	d.number(uint64(len(list)))
	for _, x := range list {
		name, value, _ := strings.Cut(x, "=")
		dt, _ := hex.DecodeString(value)
		d.bytes(name)
		d.bytes(string(dt))
	}
}

func (d *digester) directory(path, name string) {
	d.head("d", name, d.nodes[path])
	d.xattrs(d.nodes[path])
	slices.Sort(d.below[path])
	for _, name := range d.below[path] {
		d.entry(filepath.Join(path, name), name)
	}
	d.Write([]byte("e"))
}

func (d *digester) entry(path, name string) {
	d.count++
	d.entries[path] = d.count
	n := d.nodes[path]
	switch kind := n.Mode & unix.S_IFMT; {
	case n.Same != "":
		d.Write([]byte("l"))
		d.bytes(name)
		d.number(d.entries[n.Same])
	case kind == unix.S_IFDIR:
		d.directory(path, name)
	case kind == unix.S_IFREG:
		d.head("f", name, n)
		d.xattrs(n)
		d.bytes(n.Content)
	case kind == unix.S_IFLNK:
		d.head("s", name, n)
		d.bytes(n.Target)
	default:
		d.head("n", name, n)
		d.number(uint64(unix.Major(n.Device))<<32 | uint64(unix.Minor(n.Device)))
	}
}

// oddTree writes a tree with one of everything.
func oddTree(t *testing.T, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	dir := func(name string, mode uint32) {
		must(t, os.MkdirAll(at(name), 0o755))
		must(t, unix.Chmod(at(name), mode))
	}
	file := func(name, text string, mode uint32) {
		must(t, os.WriteFile(at(name), []byte(text), 0o600))
		must(t, unix.Chmod(at(name), mode))
	}
	dir("empty", 0o1777)
	dir("a/b/c", 0o2750)
	dir("unreadable", 0)
	file("a/plain", "text\n", 0o644)
	file("a/nothing", "", 0)
	file("a/b/setuid", "#!/bin/sh\n", 0o4755)
	file("big", strings.Repeat("0123456789abcdef", 40<<10), 0o640)
	for _, name := range []string{"new\nline", "\xff\xfe", " ", "-rf", "...", "a\\b", "ü", strings.Repeat("n", 255)} {
		file(name, name, 0o600)
	}
	must(t, os.Symlink("../../outside", at("a/b/dangling")))
	must(t, os.Symlink("a", at("to-dir")))
	must(t, os.Symlink(strings.Repeat("x", 4000), at("long")))
	must(t, os.Link(at("a/plain"), at("a/b/c/again")))
	must(t, os.Link(at("a/plain"), at("z-again")))
	must(t, os.Link(at("to-dir"), at("to-dir-again")))
	must(t, unix.Mkfifo(at("fifo"), 0o622))
	must(t, unix.Mkfifo(at("fifo-setuid"), 0o622))
	must(t, os.Lchown(at("fifo-setuid"), 9, 9))
	must(t, unix.Chmod(at("fifo-setuid"), 0o6622))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70_000))))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, os.Lchown(at("big"), 1000, 100))
	must(t, os.Lchown(at("a/b/dangling"), 65534, 4_000_000_000))
	must(t, os.Lchown(at("empty"), 7, 8))
	file("a/owned-setuid", "x", 0o755)
	must(t, os.Lchown(at("a/owned-setuid"), 9, 9))
	must(t, unix.Chmod(at("a/owned-setuid"), 0o6711))
	for name, value := range map[string]string{"user.empty": "", "user.b": "\x01\xff", "user.a": strings.Repeat("v", 2000)} {
		must(t, unix.Lsetxattr(at("a/plain"), name, []byte(value), 0))
	}
	must(t, unix.Lsetxattr(at("empty"), "user.dir", []byte("d"), 0))
	// cap_net_bind_service, effective and permitted, version 2 of the format.
	must(t, unix.Lsetxattr(at("big"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	times(t, root)
}

// times gives every entry a time of its own, with some before 1970 and after
// 2038.
func times(t *testing.T, root string) {
	t.Helper()
	n := int64(0)
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		at := time.Date(1969+int(n)%120, 3, 1, 2, 3, 4, int(n*1001), time.UTC)
		ts := unix.NsecToTimespec(at.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// randomTree writes a tree of some entries of any kind.
func randomTree(t *testing.T, rnd *rand.Rand, root string) {
	t.Helper()
	dirs, files := []string{root}, []string{}
	for i := range rnd.IntN(80) {
		name := make([]byte, 1+rnd.IntN(12))
		for j := range name {
			for name[j] == 0 || name[j] == '/' {
				name[j] = byte(rnd.IntN(256))
			}
		}
		path := filepath.Join(dirs[rnd.IntN(len(dirs))], fmt.Sprintf("%s%d", name, i))
		switch kind := rnd.IntN(8); {
		case kind < 2:
			must(t, os.Mkdir(path, 0o700))
			must(t, unix.Chmod(path, uint32(rnd.IntN(0o10000))))
			dirs = append(dirs, path)
		case kind == 2:
			must(t, os.Symlink(string(name), path))
		case kind == 3 && len(files) > 0:
			must(t, os.Link(files[rnd.IntN(len(files))], path))
			continue
		case kind == 4:
			must(t, unix.Mkfifo(path, uint32(rnd.IntN(0o1000))))
			files = append(files, path)
		default:
			content := make([]byte, rnd.IntN(1<<rnd.IntN(20)))
			_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(content)
			must(t, os.WriteFile(path, content, 0o600))
			if rnd.IntN(3) == 0 {
				must(t, unix.Lsetxattr(path, "user."+fmt.Sprintf("%x", name), content[:min(len(content), 100)], 0))
			}
			must(t, os.Lchown(path, rnd.IntN(70_000), rnd.IntN(70_000)))
			must(t, unix.Chmod(path, uint32(rnd.IntN(0o10000))))
			files = append(files, path)
		}
	}
	times(t, root)
}
