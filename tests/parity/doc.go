// Package parity proves that localfront builds Dockerfiles exactly as the
// official frontend of the BuildKit version it is made from does.
//
// Every case under testdata is one txtar file: a Dockerfile with its context.
// It is built twice over, by the official frontend and by localfront, each on a
// BuildKit daemon of its own, from one registry. What comes out is turned into
// named facts (the image byte for byte, result metadata, warnings, lint,
// outline, targets, errors with their positions, progress names), and the facts
// of both sides must be equal. What may differ is listed in allowed_test.go.
//
// The format of the cases is in testdata/README.md. The package leaves
// everything that only localfront can do to the other end-to-end tests.
package parity
