package resolve

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// The errors below do not unwrap to their cause. A cause that came over the
// gateway carries a gRPC status, and BuildKit sends the message of an inner
// status in place of all that was put around it (util/grpcerrors,
// errorHasMoreContext).

// OfflineError says that a name cannot be answered without a registry while
// `offline` forbids it.
type OfflineError struct {
	// Name is the name as people write it.
	Name string
	// Digest is what the name is known to stand for, empty if nothing is known.
	Digest digest.Digest
	// Age is how long ago that was learned, such as "3 days old".
	Age string
	// Platform is the platform asked for.
	Platform string
}

func (e *OfflineError) Error() string {
	switch {
	case e.Digest == "":
		return fmt.Sprintf("%s is not known on this builder and offline is set: build once without offline, or build where the name has been resolved before", e.Name)
	case e.Age == "":
		return fmt.Sprintf("%s is not on this builder for %s and offline is set: build once without offline", e.Name, e.Platform)
	}
	return fmt.Sprintf("%s is remembered as %s (%s), but its content for %s is not on this builder and offline is set: build once without offline",
		e.Name, e.Digest, e.Age, e.Platform)
}

// GoneError says that a name is remembered but neither the builder nor the
// registry could give its content.
type GoneError struct {
	// Name is the name as people write it.
	Name string
	// Digest is what the name was resolved to.
	Digest digest.Digest
	// Age is when, such as "3 days ago".
	Age string
	// Deleted is true where the registry said that it has no such image.
	Deleted bool
	// Cause is what the registry answered.
	Cause error
}

func (e *GoneError) Error() string {
	if e.Deleted {
		return fmt.Sprintf("%s was resolved to %s %s, which is gone from this builder and from the registry: build with --pull to resolve the name again: %v",
			e.Name, e.Digest, e.Age, e.Cause)
	}
	return fmt.Sprintf("%s was resolved to %s %s, its content is gone from this builder and the registry could not give it: try again when it can, or build with --pull: %v",
		e.Name, e.Digest, e.Age, e.Cause)
}

// MixedError says that one build would take two images for one name: the one
// that is remembered for some platforms, another for the rest.
type MixedError struct {
	// Name is the name as people write it.
	Name string
	// Remembered is what is remembered, Now what the registry has.
	Remembered, Now digest.Digest
	// Platform is what the remembered image lacks.
	Platform string
}

func (e *MixedError) Error() string {
	return fmt.Sprintf("%s is remembered as %s, which has no %s, and has moved to %s: build with --pull to take one image for all platforms",
		e.Name, e.Remembered, e.Platform, e.Now)
}

// PolicyError says that a source policy puts another image in the place of a
// name while `offline` forbids to ask for it.
type PolicyError struct {
	// Name is the name as people write it.
	Name string
}

func (e *PolicyError) Error() string {
	return fmt.Sprintf("a source policy of this build puts another image in the place of %s and offline is set: build without offline, or name that image in the Dockerfile", e.Name)
}

// human says a duration as people do: "3 days", "about an hour".
func human(d time.Duration) string {
	s := units.HumanDuration(d)
	return strings.ToLower(s[:1]) + s[1:]
}
