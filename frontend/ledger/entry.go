package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// entryVersion is the version of the values that this package writes. A value
// of another version counts as absent.
const entryVersion = 1

const (
	// plainLimit is the size in bytes up to which a value is stored as it is,
	// readable in `docker buildx du --verbose` and in a debugger.
	plainLimit = 16 << 10
	// valueLimit is the size in bytes that fits the environment of the agent:
	// Linux takes 128 KiB for one string, and the agent joins four.
	valueLimit = len(proxyFields) * fieldLimit
	fieldLimit = 90 << 10
	// decodedLimit bounds what a compressed value may expand to, in bytes.
	decodedLimit = 64 << 20
	// layerLimit is more layers than any image has: overlayfs takes 500.
	layerLimit = 10_000

	compressedPrefix = "zstd:"
)

// ErrTooLarge is returned by Write for an entry that does not fit the ledger.
var ErrTooLarge = errors.New("entry is too large for the ledger")

// Entry is all that a builder knows of one name.
type Entry struct {
	// Version is the version of the format.
	Version int `json:"version"`
	// Image is what the name was last resolved to, nil if it never was.
	Image *Image `json:"image,omitempty"`
}

// Image is the memory of one resolution.
type Image struct {
	// Digest is that of the index, or of the manifest where there is no index.
	Digest digest.Digest `json:"digest"`
	// Resolved is when a registry, or the engine's image store, said so.
	Resolved time.Time `json:"resolved"`
	// Platforms holds what is known for each platform, keyed by
	// platforms.FormatAll of the normalised platform.
	Platforms map[string]Platform `json:"platforms,omitempty"`
}

// Platform is what is known of an image for one platform.
type Platform struct {
	// Layers is the number of layers.
	Layers int `json:"layers"`
	// Content tells whether the layers were on the builder when last checked.
	Content Content `json:"content,omitempty"`
	// NoTriggers says that the image has no ONBUILD triggers, which may name
	// further images. Where it is false nobody knows.
	NoTriggers bool `json:"noTriggers,omitempty"`
}

// Content tells where the layers of an image are.
type Content string

const (
	// Unknown means that nobody has looked yet.
	Unknown Content = ""
	// Here means that the layers were found on the builder.
	Here Content = "here"
	// Elsewhere means that they were looked for and not found.
	Elsewhere Content = "elsewhere"
)

// Clone returns a deep copy.
func (e Entry) Clone() Entry {
	if e.Image != nil {
		img := *e.Image
		img.Platforms = make(map[string]Platform, len(e.Image.Platforms))
		for k, v := range e.Image.Platforms {
			img.Platforms[k] = v
		}
		e.Image = &img
	}
	return e
}

// encode returns the value that stands for e. It is deterministic.
func encode(e Entry) (string, error) {
	e.Version = entryVersion
	dt, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	return toValue(dt)
}

// toValue returns dt as a value: as it is, or compressed where it is long.
func toValue(dt []byte) (string, error) {
	if len(dt) <= plainLimit && utf8.Valid(dt) && !bytes.ContainsRune(dt, 0) {
		return string(dt), nil
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return "", err
	}
	v := compressedPrefix + base64.StdEncoding.EncodeToString(w.EncodeAll(dt, nil))
	if len(v) > valueLimit {
		return "", fmt.Errorf("%w: %d bytes of %d", ErrTooLarge, len(v), valueLimit)
	}
	return v, nil
}

// fromValue is the inverse of toValue.
func fromValue(v string) ([]byte, error) {
	packed, ok := strings.CutPrefix(v, compressedPrefix)
	if !ok {
		return []byte(v), nil
	}
	raw, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		return nil, fmt.Errorf("ledger value: %w", err)
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	dt, err := r.DecodeAll(raw, nil)
	if err != nil {
		return nil, fmt.Errorf("ledger value: %w", err)
	}
	return dt, nil
}

// decode is the inverse of encode. Every value that is not an entry of this
// version is an error.
func decode(v string) (Entry, error) {
	dt, err := fromValue(v)
	if err != nil {
		return Entry{}, err
	}
	var e Entry
	if err := json.Unmarshal(dt, &e); err != nil {
		return Entry{}, fmt.Errorf("ledger value: %w", err)
	}
	if e.Version != entryVersion {
		return Entry{}, fmt.Errorf("ledger value: version %d, want %d", e.Version, entryVersion)
	}
	if err := e.Image.validate(); err != nil {
		return Entry{}, fmt.Errorf("ledger value: %w", err)
	}
	return e, nil
}

// validate refuses what no build writes: whoever can run a frontend on a
// builder can write to its ledger.
func (img *Image) validate() error {
	if img == nil {
		return nil
	}
	if err := img.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", img.Digest, err)
	}
	for name, p := range img.Platforms {
		if p.Layers < 0 || p.Layers > layerLimit {
			return fmt.Errorf("platform %q: %d layers", name, p.Layers)
		}
		switch p.Content {
		case Unknown, Here, Elsewhere:
		default:
			return fmt.Errorf("platform %q: content %q", name, p.Content)
		}
	}
	return nil
}
