package ledger

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzResult checks what is done with a result that anybody may have written:
// nothing panics, and what is understood is written as it was read.
func FuzzResult(f *testing.F) {
	for _, r := range []Result{
		{Version: resultVersion, Serial: 1, Built: noon, Dockerfile: "Dockerfile"},
		{Version: resultVersion, Built: noon, Platforms: map[string]Build{
			"linux/amd64": {Definition: []byte("one"), Config: []byte(`{}`)}, "linux/arm64": {Definition: []byte("other"), Config: []byte(`{"a":1}`)},
		}},
	} {
		v, err := r.value()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v)
	}
	f.Add(pack(f, []byte("x")))
	f.Fuzz(func(t *testing.T, v string) {
		r, err := decodeResult(v)
		if err != nil {
			return
		}
		again, err := r.value()
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := decodeResult(again)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Same(*back) || r.Serial != back.Serial {
			t.Errorf("another result came back:\n%s", cmp.Diff(r, back))
		}
	})
}

// FuzzChain checks that the newest of the values that can be understood counts,
// whatever stands beside them, and in which order.
func FuzzChain(f *testing.F) {
	f.Add("", uint64(1), uint64(2))
	f.Add(`{"version":1,"serial":3,"platforms":{}}`+"\n", uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, junk string, a, b uint64) {
		var values []string
		for _, serial := range []uint64{a, b} {
			r := Result{Version: resultVersion, Serial: serial, Built: noon}
			v, err := r.value()
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, v)
		}
		values = append(values, junk)
		want := max(a, b)
		other, errJunk := decodeResult(junk)
		if errJunk == nil {
			want = max(want, other.Serial)
		}
		got, err := newest(values)
		if (err != nil) != (errJunk != nil) {
			t.Fatalf("error %v, want %v", err, errJunk)
		}
		if got == nil || got.Serial != want {
			t.Fatalf("serial %+v, want %d", got, want)
		}
		if names := listed(append(values, strings.Repeat(junk, 2))); len(names) > 0 && errJunk == nil {
			t.Fatalf("names %q of results", names)
		}
	})
}
