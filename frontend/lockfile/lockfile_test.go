package lockfile

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	shaA   = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	shaB   = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	commit = "cccccccccccccccccccccccccccccccccccccccc"
)

// written is a lock as localfront writes it.
const written = `# Written by localfront; commit this file.
# Refresh everything:  docker build --build-arg LOCALFRONT_LOCK=update -o . .
version = 1

[image."docker.io/library/alpine:3.20"]
digest = "` + shaA + `"

[image."registry.example:5000/team/app:v1"]
digest = "` + shaB + `"

[git."https://github.com/moby/buildkit.git#v0.33.1"]
commit = "` + commit + `"

[http."https://example.com/tool.tgz"]
digest = "` + shaB + `"
`

func entry(k Kind, name, value string) Entry { return Entry{Key: Key{k, name}, Value: value} }

// all is what written holds.
var all = []Entry{
	entry(Image, "docker.io/library/alpine:3.20", shaA),
	entry(Image, "registry.example:5000/team/app:v1", shaB),
	entry(Git, "https://github.com/moby/buildkit.git#v0.33.1", commit),
	entry(HTTP, "https://example.com/tool.tgz", shaB),
}

func without(entries []Entry) []Entry {
	out := make([]Entry, len(entries))
	for i, e := range entries {
		e.Line = 0
		out[i] = e
	}
	return out
}

func TestFormat(t *testing.T) {
	t.Parallel()
	f := New(Default)
	for i := range all { // the order of adding does not show
		f.Put(all[len(all)-1-i])
	}
	if diff := cmp.Diff(written, string(f.Format())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFormatOfAnotherDockerfile(t *testing.T) {
	t.Parallel()
	const head = "# Written by localfront; commit this file.\n# Refresh everything:  docker build -f Other.Dockerfile --build-arg LOCALFRONT_LOCK=update -o . .\nversion = 1\n"
	if diff := cmp.Diff(head, string(New("Other.Dockerfile.lock").Format())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text string }{
		{"as written", written},
		{"CRLF", strings.ReplaceAll(written, "\n", "\r\n")},
		{"with a byte order mark", "\ufeff" + written},
		{"familiar spelling", strings.Replace(written, "docker.io/library/alpine", "alpine", 1)},
		{"literal strings", strings.ReplaceAll(written, `"`, `'`)},
		{"with comments", strings.ReplaceAll(written, "\n\n", "\n# why\n\n")},
		{"without an end of line", strings.TrimSuffix(written, "\n")},
		{"credentials in an address", strings.Replace(written, "https://example.com", "https://me:secret@example.com", 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := Parse(Default, []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(all, without(f.Entries())); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(written, string(f.Format())); diff != "" {
				t.Errorf("written again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	f, err := Parse(Default, []byte(written))
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, e := range f.Entries() {
		got = append(got, e.Line)
	}
	if diff := cmp.Diff([]int{5, 8, 11, 14}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOneEntryIsOneLineOfDiff(t *testing.T) {
	t.Parallel()
	f, err := Parse(Default, []byte(written))
	if err != nil {
		t.Fatal(err)
	}
	f.Put(entry(Image, "docker.io/library/alpine:3.20", shaB))
	was, now := strings.Split(written, "\n"), strings.Split(string(f.Format()), "\n")
	changed := 0
	for i := range was {
		if was[i] != now[i] {
			changed++
		}
	}
	if len(was) != len(now) || changed != 1 {
		t.Errorf("%d lines differ of %d and %d", changed, len(was), len(now))
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]string{"Dockerfile.lock"}, Names("Dockerfile")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Other.Dockerfile.lock", "Dockerfile.lock"}, Names("Other.Dockerfile")); diff != "" {
		t.Error(diff)
	}
}

func TestCommandsAreQuoted(t *testing.T) {
	t.Parallel()
	got := Command("it's mine.lock", "add", Flag("--build-arg", "V=1 2"), Flag("--platform", "linux/amd64,linux/arm64"))
	want := `docker build -f 'it'\''s mine' --build-arg 'V=1 2' --platform linux/amd64,linux/arm64 --build-arg LOCALFRONT_LOCK=add -o . .`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", " \r\n", "\ufeff"} {
		if _, err := Parse(Default, []byte(text)); !errors.Is(err, ErrEmpty) {
			t.Errorf("%q: error %v, want %v", text, err, ErrEmpty)
		}
	}
}

// bad are locks that are refused, and what tells them apart.
func bad() []struct {
	name, text string
	kind       error
} {
	const head = "version = 1\n\n"
	table := func(name, digest string) string { return "[image.\"" + name + "\"]\ndigest = \"" + digest + "\"\n" }
	deep := strings.Repeat("[", 200_000)
	return []struct {
		name, text string
		kind       error
	}{
		{"merge conflict", head + "<<<<<<< HEAD\n" + table("alpine:3.20", shaA) + "=======\n" + table("alpine:3.20", shaB) + ">>>>>>> theirs\n", ErrConflict},
		{"merge conflict with CRLF", strings.ReplaceAll(head+"<<<<<<< HEAD\n=======\n>>>>>>> x\n", "\n", "\r\n"), ErrConflict},
		{"rest of a merge conflict", head + table("alpine:3.20", shaA) + "=======\n", ErrConflict},
		{"newer version", "version = 2\n", ErrVersion},
		{"no version", table("alpine:3.20", shaA), ErrVersion},
		{"version of another type", "version = \"1\"\n", ErrVersion},
		{"version zero", "version = 0\n", ErrVersion},
		{"version twice", "version = 1\nversion = 1\n", ErrDuplicate},
		{"unknown top-level key", "version = 1\nextra = true\n", ErrKey},
		{"unknown table", head + "[oci.\"x\"]\ndigest = \"" + shaA + "\"\n", ErrKey},
		{"table of all images", head + "[image]\n\"alpine:3.20\" = \"" + shaA + "\"\n", ErrKey},
		{"array of tables", head + "[[image]]\n", ErrKey},
		{"unknown key", head + table("alpine:3.20", shaA) + "date = 2026-01-01\n", ErrKey},
		{"commit of an image", head + "[image.\"alpine:3.20\"]\ncommit = \"" + commit + "\"\n", ErrKey},
		{"duplicate table", head + table("alpine:3.20", shaA) + "\n" + table("alpine:3.20", shaB), ErrDuplicate},
		{"two spellings of one name", head + table("alpine", shaA) + "\n" + table("docker.io/library/alpine:latest", shaA), ErrDuplicate},
		{"duplicate key", head + table("alpine:3.20", shaA) + "digest = \"" + shaB + "\"\n", ErrDuplicate},
		{"table without a value", head + "[image.\"alpine:3.20\"]\n\n" + table("busybox", shaA), ErrValue},
		{"last table without a value", head + "[image.\"alpine:3.20\"]\n", ErrValue},
		{"digest too short", head + table("alpine:3.20", "sha256:aa"), ErrValue},
		{"digest too long", head + table("alpine:3.20", shaA+"a"), ErrValue},
		{"digest in capitals", head + table("alpine:3.20", "sha256:"+strings.Repeat("A", 64)), ErrValue},
		{"digest of another algorithm", head + table("alpine:3.20", "sha512:"+strings.Repeat("a", 128)), ErrValue},
		{"digest of no algorithm", head + table("alpine:3.20", "md5:"+strings.Repeat("a", 32)), ErrValue},
		{"digest of another type", head + "[image.\"alpine:3.20\"]\ndigest = 1\n", ErrValue},
		{"short commit", head + "[git.\"https://example.com/x.git#v1\"]\ncommit = \"cccccc\"\n", ErrValue},
		{"name that is no image", head + table("Not An Image", shaA), ErrName},
		{"name with a digest", head + table("alpine@"+shaA, shaA), ErrName},
		{"address that is none", head + "[http.\"ftp://example.com/x\"]\ndigest = \"" + shaA + "\"\n", ErrName},
		{"empty repository", head + "[git.\"#v1\"]\ncommit = \"" + commit + "\"\n", ErrName},
		{"a Dockerfile", "# syntax=docker/dockerfile:1\n\nFROM alpine:3.20\nRUN true\n", ErrDockerfile},
		{"a Dockerfile that begins with ARG", "arg V=1\nFROM alpine:$V\n", ErrDockerfile},
		{"more than 1 MiB", head + strings.Repeat("#", MaxSize), ErrSize},
		{"100,000 entries", head + manyEntries(100_000), ErrSize},
		{"invalid UTF-8", head + "[image.\"alp\xffine\"]\n", ErrText},
		{"UTF-16", "\xff\xfev\x00e\x00r\x00", ErrText},
		{"null bytes", head + "\x00\x00", ErrSyntax},
		{"no TOML", "version = 1\n\nhello\n", ErrSyntax},
		{"half a string", head + "[image.\"alpine:3.20\"]\ndigest = \"sha256:aa\n", ErrSyntax},
		{"deep arrays", "version = " + deep, ErrSyntax},
		{"deep tables", "version = " + strings.Repeat("{a=", 200_000), ErrSyntax},
		{"deep keys", strings.Repeat("a.", 20) + "a = 1\n", ErrKey},
	}
}

func manyEntries(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "[image.\"alpine:%d\"]\ndigest = \"%s\"\n", i, shaA)
	}
	return b.String()
}

// Each is told apart, with the file, the line and what to do.
func TestErrors(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	for _, tt := range bad() {
		_, err := Parse(Default, []byte(tt.text))
		if !errors.Is(err, tt.kind) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.kind)
			continue
		}
		fmt.Fprintf(&got, "== %s\n%v\n", tt.name, err)
	}
	const golden = "testdata/errors.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAsManyEntriesAsFit(t *testing.T) {
	t.Parallel()
	text := "version = 1\n" + manyEntries(9_000)
	if len(text) > MaxSize {
		t.Fatalf("%d bytes", len(text))
	}
	f, err := Parse(Default, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(f.Entries()); n != 9_000 {
		t.Errorf("%d entries", n)
	}
}

func TestNewKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind       Kind
		name, want string
	}{
		{Image, "alpine", "docker.io/library/alpine:latest"},
		{Image, "ghcr.io/org/x:1", "ghcr.io/org/x:1"},
		{Git, "git@github.com:org/x.git#main", "git@github.com:org/x.git#main"},
		{Git, "ssh://git:secret@host/x.git", "ssh://git@host/x.git"},
		{Git, "https://token@github.com/org/x.git#v1", "https://github.com/org/x.git#v1"},
		{HTTP, "https://u:p@example.com/a?b=c#part", "https://example.com/a?b=c"},
	}
	for _, tt := range tests {
		k, err := NewKey(tt.kind, tt.name)
		if err != nil || k.Name != tt.want {
			t.Errorf("%s %s: %v, error %v, want %s", tt.kind, tt.name, k.Name, err, tt.want)
		}
	}
	if k, err := NewKey("oci", "x"); err == nil {
		t.Errorf("a kind that does not exist: %v", k)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte("\ufeff" + strings.ReplaceAll(written, "\n", "\r\n")))
	for _, tt := range bad() {
		if len(tt.text) < 10_000 {
			f.Add([]byte(tt.text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := Parse(Default, data)
		if err != nil {
			var e *Error
			if errors.Is(err, ErrEmpty) {
				return
			}
			if !errors.As(err, &e) || e.Remedy == "" || e.Kind == nil {
				t.Fatalf("error without a remedy: %v", err)
			}
			if lines := bytes.Count(data, []byte("\n")) + 1; e.Line < 0 || e.Line > lines {
				t.Fatalf("line %d of %d", e.Line, lines)
			}
			return
		}
		once := lock.Format()
		again, err := Parse(Default, once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		if diff := cmp.Diff(without(lock.Entries()), without(again.Entries())); diff != "" {
			t.Fatalf("what was written is read as another lock:\n%s", diff)
		}
		if twice := again.Format(); !bytes.Equal(once, twice) {
			t.Fatalf("written twice:\n%s\n%s", once, twice)
		}
	})
}
