package lockfile

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/distribution/reference"
)

// NewKey returns the one spelling that a source has in a lock. An image is
// written in full, with its tag; a repository as its address, #, and the ref;
// credentials are left out of addresses, since a lock is committed.
func NewKey(k Kind, name string) (Key, error) {
	switch k {
	case Image:
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return Key{}, fmt.Errorf("%q is no image: %w", name, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return Key{}, fmt.Errorf("%q carries its digest, so it needs no entry", name)
		}
		return Key{Image, reference.TagNameOnly(named).String()}, nil
	case Git:
		address, ref, _ := strings.Cut(name, "#")
		address, err := publicAddress(address)
		if err != nil {
			return Key{}, err
		}
		if ref != "" {
			address += "#" + ref
		}
		return Key{Git, address}, nil
	case HTTP:
		address, _, _ := strings.Cut(name, "#")
		if !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "https://") {
			return Key{}, fmt.Errorf("%q begins with neither http:// nor https://", WithoutCredentials(name))
		}
		address, err := publicAddress(address)
		return Key{HTTP, address}, err
	}
	return Key{}, fmt.Errorf("%q is no kind of source", k)
}

// publicAddress returns an address without credentials.
func publicAddress(address string) (string, error) {
	if address == "" || strings.IndexFunc(address, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) >= 0 {
		return "", fmt.Errorf("%q is no address", WithoutCredentials(address))
	}
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address, nil //nolint:nilerr // git@host:path is an address as well
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		u.User = nil
	} else {
		u.User = url.User(u.User.Username())
	}
	return u.String(), nil
}

var userinfo = lazy(`://[^/?#]*@`)

// WithoutCredentials returns text to show of a name or an address, also of one
// that is not well formed: what stands before the host is left out.
func WithoutCredentials(text string) string { return userinfo().ReplaceAllString(text, "://…@") }

var (
	commitHash = lazy(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	sha256Hash = lazy(`^[0-9a-f]{64}$`)
)

var (
	errCommit    = errors.New("a commit is 40 or 64 lower-case hexadecimal digits")
	errAlgorithm = errors.New("a digest begins with sha256:, the one algorithm that BuildKit checks")
	errDigest    = errors.New("a digest is sha256: and 64 lower-case hexadecimal digits")
)

// CheckValue says what is wrong with a value for a source of kind k.
func CheckValue(k Kind, value string) error {
	if k == Git {
		if !commitHash().MatchString(value) {
			return errCommit
		}
		return nil
	}
	hash, ok := strings.CutPrefix(value, "sha256:")
	switch {
	case !ok:
		return errAlgorithm
	case !sha256Hash().MatchString(hash):
		return errDigest
	}
	return nil
}
