package frontend

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/suggest"

	"github.com/org/localfront/frontend/ledger"
)

const (
	// argPrefix starts the frontend options that carry the user's build args.
	argPrefix = "build-arg:"
	// ownPrefix starts the build args that are localfront's own. They are not
	// passed on to the Dockerfile.
	ownPrefix = argPrefix + "LOCALFRONT_"
)

// options are what the user asked of localfront itself.
type options struct {
	offline bool
	maxAge  time.Duration
	scope   string
	locked  bool
	// lock says what to write to the lock: update, add, or names.
	lock  string
	names []reference.Named
}

// option is one option: how it is written on the syntax line and how its value
// is taken. The build arg is LOCALFRONT_ and the word in capitals.
type option struct {
	word string
	flag bool // may stand without a value, which means true
	once bool // a build arg only: what it does is done by one build, not by all
	set  func(o *options, value string) error
}

var known = []option{
	{word: "lock", once: true, set: func(o *options, v string) error {
		o.lock = v
		return nil
	}},
	{word: "locked", flag: true, set: func(o *options, v string) (err error) {
		o.locked, err = parseBool(v)
		return err
	}},
	{word: "max-age", set: func(o *options, v string) (err error) {
		o.maxAge, err = parseAge(v)
		return err
	}},
	{word: "name", set: func(o *options, v string) (err error) {
		o.names, err = parseNames(v)
		return err
	}},
	{word: "offline", flag: true, set: func(o *options, v string) (err error) {
		o.offline, err = parseBool(v)
		return err
	}},
	{word: "scope", set: func(o *options, v string) error {
		if !ledger.IsScope(v) {
			return fmt.Errorf("%q is not a name of up to 64 letters, digits, dots, dashes and underscores", v)
		}
		o.scope = v
		return nil
	}},
}

// buildArg returns the name of the build arg that stands for the option.
func (o option) buildArg() string {
	return "LOCALFRONT_" + strings.ToUpper(strings.ReplaceAll(o.word, "-", "_"))
}

// OptionError says what is wrong with an option, and what to write.
type OptionError struct {
	// Option is the option as the user wrote it.
	Option string
	// OnSyntaxLine is true for a word of the # syntax= line, false for a build
	// arg.
	OnSyntaxLine bool
	// Reason says what is wrong.
	Reason string
	// Remedy says what to write instead.
	Remedy string
}

func (e *OptionError) Error() string {
	where := "build arg"
	if e.OnSyntaxLine {
		where = "# syntax= line"
	}
	return fmt.Sprintf("%s: option %q: %s: %s", where, e.Option, e.Reason, e.Remedy)
}

// parseOptions reads localfront's options from the frontend options: first the
// words of the # syntax= line, which BuildKit hands over as cmdline, then the
// build args, which win.
func parseOptions(opts map[string]string) (options, error) {
	var o options
	words := strings.Fields(opts[keyCmdline])
	for _, w := range words[min(1, len(words)):] {
		if err := o.setWord(w); err != nil {
			return options{}, err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		if !strings.HasPrefix(k, ownPrefix) {
			continue
		}
		if err := o.setArg(strings.TrimPrefix(k, argPrefix), opts[k]); err != nil {
			return options{}, err
		}
	}
	return o, nil
}

func (o *options) setWord(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	var names []string
	for _, k := range known {
		if k.once {
			continue
		}
		names = append(names, k.word)
		if k.word != name {
			continue
		}
		if !hasValue {
			if !k.flag {
				return &OptionError{word, true, "needs a value", "write " + name + "=…"}
			}
			value = "true"
		}
		if err := k.set(o, value); err != nil {
			return &OptionError{word, true, err.Error(), "see docs/reference.md"}
		}
		return nil
	}
	return unknown(word, name, names, true)
}

func (o *options) setArg(name, value string) error {
	var names []string
	for _, k := range known {
		names = append(names, k.buildArg())
		if k.buildArg() != name {
			continue
		}
		if value == "" {
			return nil // --build-arg NAME= and compose files unset it so
		}
		if err := k.set(o, value); err != nil {
			return &OptionError{name + "=" + value, false, err.Error(), "see docs/reference.md"}
		}
		return nil
	}
	return unknown(name, name, names, false)
}

// unknown is the error for an option that does not exist.
func unknown(written, name string, names []string, onSyntaxLine bool) error {
	remedy := "known are " + strings.Join(names, ", ")
	if match, ok := suggest.Search(name, names, true); ok {
		remedy = "did you mean " + match + "?"
	}
	return &OptionError{written, onSyntaxLine, "is unknown", remedy}
}

// parseBool reads the value of a switch.
func parseBool(v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", v)
	}
	return b, nil
}

// parseAge reads an age: a Go duration, or a whole number of days or weeks
// such as 7d or 2w.
func parseAge(v string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(v, unit); ok {
			if count, err := strconv.ParseUint(n, 10, 16); err == nil && count > 0 {
				return time.Duration(count) * length, nil
			}
		}
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not an age such as 12h, 7d or 2w", v)
	}
	return d, nil
}
