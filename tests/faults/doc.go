// Package faults proves on real daemons what happens when things go wrong: a
// registry that fails in each way there is, a daemon that is killed, a full
// disk, garbage collection that never ends, a user who gives up, and more
// builds at once than a builder can take.
//
// The short form runs with all other tests. `make soak` runs the full counts,
// a few tests after another, and writes what each has measured to
// docs/reliability.md when it has passed. It says how far it is, so that a run
// that is stopped is of use.
package faults
