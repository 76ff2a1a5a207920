// Package claims checks that what the documentation says is proved is proved
// by a test that exists.
package claims
