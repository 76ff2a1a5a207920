package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)

const dgst = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

// platformed returns an entry with n platforms that compress badly.
func platformed(n int) Entry {
	img := &Image{Digest: dgst, Resolved: noon, Platforms: map[string]Platform{}}
	for i := range n {
		img.Platforms[fmt.Sprintf("linux/%x", sha256.Sum256(fmt.Append(nil, i)))] = Platform{Layers: i, Content: Here}
	}
	return Entry{Version: entryVersion, Image: img}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]Entry{
		"nothing":         {Version: entryVersion},
		"no platform":     {Version: entryVersion, Image: &Image{Digest: dgst, Resolved: noon}},
		"one platform":    platformed(1),
		"many, plain":     platformed(100),
		"many, packed":    platformed(1000),
		"content unknown": {Version: entryVersion, Image: &Image{Digest: dgst, Resolved: noon, Platforms: map[string]Platform{"linux/amd64": {Layers: 3}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := encode(e)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(v)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(e, got); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
			for range 20 {
				if again, _ := encode(e.Clone()); again != v {
					t.Fatal("the same entry has another value")
				}
			}
			if strings.ContainsRune(v, 0) {
				t.Error("the value has a NUL, which no environment takes")
			}
		})
	}
}

func TestLayoutOfAValue(t *testing.T) {
	t.Parallel()
	v, err := encode(Entry{Image: &Image{Digest: dgst, Resolved: noon, Platforms: map[string]Platform{
		"linux/arm64": {Layers: 2}, "linux/amd64": {Layers: 1, Content: Here},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"image":{"digest":"` + string(dgst) + `","resolved":"2026-01-02T12:00:00.123456789Z",` +
		`"platforms":{"linux/amd64":{"layers":1,"content":"here"},"linux/arm64":{"layers":2}}}}`
	if v != want {
		t.Errorf("value\n%s\nwant\n%s", v, want)
	}
}

func TestSizeOfAValue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		platforms int
		packed    bool
		err       error
	}{
		{100, false, nil},
		{300, true, nil},
		{5000, true, nil},
		{9000, false, ErrTooLarge},
	}
	for _, tt := range tests {
		v, err := encode(platformed(tt.platforms))
		if !errors.Is(err, tt.err) {
			t.Errorf("%d platforms: error %v, want %v", tt.platforms, err, tt.err)
		}
		if packed := strings.HasPrefix(v, compressedPrefix); packed != tt.packed {
			t.Errorf("%d platforms: %d bytes, packed: %v, want %v", tt.platforms, len(v), packed, tt.packed)
		}
	}
}

func pack(t testing.TB, dt []byte) string {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return compressedPrefix + base64.StdEncoding.EncodeToString(w.EncodeAll(dt, nil))
}

func TestDecodeWhatIsNoEntry(t *testing.T) {
	t.Parallel()
	bomb := pack(t, make([]byte, decodedLimit+1))
	tests := []struct{ name, value, want string }{
		{"nothing", "", "ledger value: unexpected end of JSON input"},
		{"garbage", "\x00\xff", `ledger value: invalid character '\x00' looking for beginning of value`},
		{"cut off", `{"version":1`, "ledger value: unexpected end of JSON input"},
		{"something behind it", `{"version":1}x`, "ledger value: invalid character 'x' after top-level value"},
		{"another type", `[]`, "ledger value: json: cannot unmarshal array into Go value of type ledger.Entry"},
		{"no version", `{}`, "ledger value: version 0, want 1"},
		{"another version", `{"version":2,"image":7}`, "ledger value: json: cannot unmarshal number into Go struct field Entry.image of type ledger.Image"},
		{"the next version", `{"version":2}`, "ledger value: version 2, want 1"},
		{"no digest", `{"version":1,"image":{}}`, `ledger value: digest "": invalid checksum digest format`},
		{"a bad digest", `{"version":1,"image":{"digest":"sha256:x"}}`, `ledger value: digest "sha256:x": invalid checksum digest length`},
		{"a short digest", `{"version":1,"image":{"digest":"sha256:ab"}}`, `ledger value: digest "sha256:ab": invalid checksum digest length`},
		{"fewer layers than none", `{"version":1,"image":{"digest":"` + string(dgst) + `","platforms":{"p":{"layers":-1}}}}`, `ledger value: platform "p": -1 layers`},
		{"more layers than there are", `{"version":1,"image":{"digest":"` + string(dgst) + `","platforms":{"p":{"layers":10001}}}}`, `ledger value: platform "p": 10001 layers`},
		{"content nowhere", `{"version":1,"image":{"digest":"` + string(dgst) + `","platforms":{"p":{"layers":1,"content":"there"}}}}`, `ledger value: platform "p": content "there"`},
		{"not base64", compressedPrefix + "?", "ledger value: illegal base64 data at input byte 0"},
		{"not packed", compressedPrefix + "aaaaaaaaaaaa", "ledger value: invalid input: magic number mismatch"},
		{"packed garbage", pack(t, []byte("x")), "ledger value: invalid character 'x' looking for beginning of value"},
		{"a bomb", bomb, "ledger value: decompressed size exceeds configured limit"},
	}
	if len(bomb) > valueLimit {
		t.Fatalf("the bomb has %d bytes and would not get into a ledger", len(bomb))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := decode(tt.value)
			if err == nil {
				t.Fatalf("entry %+v, want the error: %s", e, tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("error: %s\nwant:  %s", err, tt.want)
			}
		})
	}
}

func TestCloneIsDeep(t *testing.T) {
	t.Parallel()
	e := platformed(2)
	c := e.Clone()
	c.Image.Digest = "changed"
	for k := range c.Image.Platforms {
		delete(c.Image.Platforms, k)
	}
	if diff := cmp.Diff(platformed(2), e); diff != "" {
		t.Errorf("the original changed (-want +got):\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	for _, n := range []int{0, 1, 300} {
		v, err := encode(platformed(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v)
	}
	f.Add(pack(f, []byte("x")))
	f.Add(`{"version":1}`)
	f.Fuzz(func(t *testing.T, v string) {
		e, err := decode(v)
		if err != nil {
			return
		}
		again, err := encode(e)
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		back, err := decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e.Clone(), back.Clone()); diff != "" {
			t.Errorf("another entry came back (-want +got):\n%s", diff)
		}
	})
}
