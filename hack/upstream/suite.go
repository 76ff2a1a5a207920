// Package upstream names what BuildKit's own Dockerfile suite is compiled from.
// It has a module of its own, so that nothing of the suite's dependencies ends
// up in localfront's.
package upstream

import _ "github.com/moby/buildkit/frontend/dockerfile" // its tests are the suite
