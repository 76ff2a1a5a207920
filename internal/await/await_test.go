package await

import (
	"strconv"
	"testing"
)

func TestUntilLooksAgain(t *testing.T) {
	t.Parallel()
	looks := 0
	Until(t, "the third look", func() (string, bool) {
		looks++
		return "", looks == 3
	})
	if looks != 3 {
		t.Errorf("looked %d times, want 3", looks)
	}
}

func TestWithinTellsWhatWasSeenLast(t *testing.T) {
	t.Parallel()
	looks := 0
	seen, ok := within(0, func() (string, bool) {
		looks++
		return strconv.Itoa(looks), false
	})
	if ok || seen != strconv.Itoa(looks) || looks == 0 {
		t.Errorf("seen %q after %d looks, %v", seen, looks, ok)
	}
}
