package resolve

import (
	"fmt"
	"slices"
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

// UnknownError says that neither the engine nor a build of this builder knows a
// name.
type UnknownError struct {
	// Name is the name as people write it, Short without the tag that goes
	// without saying.
	Name, Short string
	// Cause is what the engine, or the registry, answered.
	Cause error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%v (and no build on this builder was named %s: name one with name=%s on its # syntax= line or --build-arg LOCALFRONT_NAME=%s)",
		e.Cause, e.Short, e.Short, e.Short)
}

// NotBuiltError says that no build was given a name that only builds have.
type NotBuiltError struct {
	// Name is the name as people write it.
	Name string
	// Near are the names of results that it may be meant for.
	Near []string
}

func (e *NotBuiltError) Error() string {
	near := "this builder has no named results"
	if len(e.Near) > 0 {
		near = "known are " + strings.Join(e.Near, ", ")
	}
	return fmt.Sprintf("%s is not known on this builder, and names under localhost/ are never asked of a registry (%s): build it with name=%s on its # syntax= line or --build-arg LOCALFRONT_NAME=%s",
		e.Name, near, e.Name, e.Name)
}

// PlatformError says that a named result was built for other platforms.
type PlatformError struct {
	// Name is the name as people write it.
	Name string
	// Platform is what was asked for, Built what there is.
	Platform string
	Built    []string
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("%s was built on this builder for %s, not for %s: build it with --platform %s",
		e.Name, strings.Join(e.Built, ", "), e.Platform, strings.Join(append(slices.Clone(e.Built), e.Platform), ","))
}

// CycleError says that a build would be made from its own result.
type CycleError struct {
	// Path is the names of the cycle, the first of which is the last as well.
	Path []string
}

func (e *CycleError) Error() string {
	if len(e.Path) == 2 {
		return fmt.Sprintf("a build named %s cannot be made from %s: give one of them another name", e.Path[0], e.Path[1])
	}
	var text strings.Builder
	fmt.Fprintf(&text, "named results in a cycle: %s is made from %s", e.Path[0], e.Path[1])
	for _, n := range e.Path[2:] {
		fmt.Fprintf(&text, ", which was made from %s", n)
	}
	return text.String() + ": give one of them another name"
}

// human says a duration as people do: "3 days", "about an hour".
func human(d time.Duration) string {
	s := units.HumanDuration(d)
	return strings.ToLower(s[:1]) + s[1:]
}
