// Package await waits in tests for what is not there yet. A test that sleeps
// and then looks loses the race on a busy machine; one that waits for the thing
// itself, with a bound far beyond what any machine needs, does not.
package await

import (
	"testing"
	"time"
)

// patience is how long anything is waited for. It ends tests that are wrong,
// not machines that are slow.
const patience = 2 * time.Minute

// Until looks again and again until ok, and then goes on at once. The test
// fails when that takes minutes: the message says what was waited for and what
// was seen last. It must be called from the test's own goroutine.
func Until(t testing.TB, what string, look func() (seen string, ok bool)) {
	t.Helper()
	if seen, ok := within(patience, look); !ok {
		t.Fatalf("waited %s for %s; seen last:\n%s", patience, what, seen)
	}
}

// within looks at once, and then with pauses that grow from a millisecond to a
// tenth of a second.
func within(limit time.Duration, look func() (string, bool)) (seen string, ok bool) {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if seen, ok = look(); ok || time.Now().After(deadline) {
			return seen, ok
		}
		time.Sleep(pause)
	}
}
