package frontend

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/localfront/internal/fakegateway"
)

const image = "ghcr.io/org/localfront:1"

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		opts map[string]string
		want options
	}{
		{"none", nil, options{}},
		{"no words", map[string]string{keyCmdline: image}, options{}},
		{"a word", map[string]string{keyCmdline: image + " offline"}, options{offline: true}},
		{"a word with a value", map[string]string{keyCmdline: image + " offline=true"}, options{offline: true}},
		{"a word that says no", map[string]string{keyCmdline: image + " offline=0"}, options{}},
		{"spaces and tabs", map[string]string{keyCmdline: "  " + image + "\t offline \t max-age=7d "}, options{offline: true, maxAge: 7 * 24 * time.Hour}},
		{"the later word wins", map[string]string{keyCmdline: image + " max-age=1h max-age=2h"}, options{maxAge: 2 * time.Hour}},
		{"weeks", map[string]string{keyCmdline: image + " max-age=2w"}, options{maxAge: 14 * 24 * time.Hour}},
		{"a duration", map[string]string{keyCmdline: image + " max-age=1h30m"}, options{maxAge: 90 * time.Minute}},
		{"a build arg", map[string]string{"build-arg:LOCALFRONT_OFFLINE": "1"}, options{offline: true}},
		{"a build arg with a dash", map[string]string{"build-arg:LOCALFRONT_MAX_AGE": "12h"}, options{maxAge: 12 * time.Hour}},
		{"build args win", map[string]string{keyCmdline: image + " offline max-age=1h", "build-arg:LOCALFRONT_OFFLINE": "false", "build-arg:LOCALFRONT_MAX_AGE": "2h"}, options{maxAge: 2 * time.Hour}},
		{"an empty build arg leaves the word", map[string]string{keyCmdline: image + " offline", "build-arg:LOCALFRONT_OFFLINE": ""}, options{offline: true}},
		{"a scope", map[string]string{keyCmdline: image + " scope=team-A.1_x"}, options{scope: "team-A.1_x"}},
		{"a scope by build arg", map[string]string{keyCmdline: image + " scope=a", "build-arg:LOCALFRONT_SCOPE": "b"}, options{scope: "b"}},
		{"other options", map[string]string{"build-arg:OFFLINE": "1", "offline": "1", "label:LOCALFRONT_OFFLINE": "1"}, options{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseOptions(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(options{})); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMalformedOptions(t *testing.T) {
	t.Parallel()
	const scopes = `is not a name of up to 64 letters, digits, dots, dashes and underscores: see docs/reference.md`
	long := strings.Repeat("x", 65)
	const ages = `is not an age such as 12h, 7d or 2w: see docs/reference.md`
	tests := []struct{ word, arg, value, want string }{
		{word: "ofline", want: `# syntax= line: option "ofline": is unknown: did you mean offline?`},
		{word: "Offline", want: `# syntax= line: option "Offline": is unknown: did you mean offline?`},
		{word: "maxage=7d", want: `# syntax= line: option "maxage=7d": is unknown: did you mean max-age?`},
		{word: "frozen", want: `# syntax= line: option "frozen": is unknown: known are locked, max-age, name, offline, scope`},
		{word: "=x", want: `# syntax= line: option "=x": is unknown: known are locked, max-age, name, offline, scope`},
		{word: "offline=maybe", want: `# syntax= line: option "offline=maybe": "maybe" is neither true nor false: see docs/reference.md`},
		{word: "offline=", want: `# syntax= line: option "offline=": "" is neither true nor false: see docs/reference.md`},
		{word: "max-age", want: `# syntax= line: option "max-age": needs a value: write max-age=…`},
		{word: "max-age=", want: `# syntax= line: option "max-age=": "" ` + ages},
		{word: "max-age=soon", want: `# syntax= line: option "max-age=soon": "soon" ` + ages},
		{word: "max-age=7", want: `# syntax= line: option "max-age=7": "7" ` + ages},
		{word: "max-age=0d", want: `# syntax= line: option "max-age=0d": "0d" ` + ages},
		{word: "max-age=-1h", want: `# syntax= line: option "max-age=-1h": "-1h" ` + ages},
		{word: "max-age=1.5d", want: `# syntax= line: option "max-age=1.5d": "1.5d" ` + ages},
		{word: "scope", want: `# syntax= line: option "scope": needs a value: write scope=…`},
		{word: "scope=", want: `# syntax= line: option "scope=": "" ` + scopes},
		{word: "scope=-a", want: `# syntax= line: option "scope=-a": "-a" ` + scopes},
		{word: "scope=a/b", want: `# syntax= line: option "scope=a/b": "a/b" ` + scopes},
		{word: "scope=" + long, want: `# syntax= line: option "scope=` + long + `": "` + long + `" ` + scopes},
		{arg: "LOCALFRONT_SCOPE", value: "a b", want: `build arg: option "LOCALFRONT_SCOPE=a b": "a b" ` + scopes},
		{arg: "LOCALFRONT_OFLINE", value: "1", want: `build arg: option "LOCALFRONT_OFLINE": is unknown: did you mean LOCALFRONT_OFFLINE?`},
		{arg: "LOCALFRONT_MAXAGE", value: "", want: `build arg: option "LOCALFRONT_MAXAGE": is unknown: did you mean LOCALFRONT_MAX_AGE?`},
		{arg: "LOCALFRONT_", value: "1", want: `build arg: option "LOCALFRONT_": is unknown: known are LOCALFRONT_LOCK, LOCALFRONT_LOCKED, LOCALFRONT_MAX_AGE, LOCALFRONT_NAME, LOCALFRONT_OFFLINE, LOCALFRONT_SCOPE`},
		{arg: "LOCALFRONT_OFFLINE", value: "maybe", want: `build arg: option "LOCALFRONT_OFFLINE=maybe": "maybe" is neither true nor false: see docs/reference.md`},
		{arg: "LOCALFRONT_MAX_AGE", value: "soon", want: `build arg: option "LOCALFRONT_MAX_AGE=soon": "soon" ` + ages},
	}
	for _, tt := range tests {
		t.Run(tt.word+tt.arg+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			opts := map[string]string{keyCmdline: image + " " + tt.word}
			if tt.arg != "" {
				opts["build-arg:"+tt.arg] = tt.value
			}
			_, err := parseOptions(opts)
			var oe *OptionError
			if !errors.As(err, &oe) {
				t.Fatalf("error %v, want an OptionError", err)
			}
			equal(t, "error", err.Error(), tt.want)
			equal(t, "on the syntax line", oe.OnSyntaxLine, tt.word != "")
		})
	}
}

func TestPlaceOfAMalformedOption(t *testing.T) {
	t.Parallel()
	const text = "# check=skip=all\n# syntax=" + image + " ofline\nFROM scratch\n"
	const bad = `# syntax= line: option "ofline": is unknown: did you mean offline?`
	misspelt := dockerfile(text)
	misspelt.Opts[keyCmdline] = image + " ofline"
	elsewhere := dockerfile("FROM scratch\n")
	elsewhere.Opts[keyCmdline] = image + " ofline"
	nowhere := misspelt
	nowhere.Locals = nil
	arg := dockerfile(text)
	arg.Opts[keyCmdline] = image
	arg.Opts["build-arg:LOCALFRONT_OFLINE"] = "1"
	tests := []struct {
		name, want, where string
		what              fakegateway.Build
	}{
		{"in the Dockerfile", bad, "Dockerfile:2", misspelt},
		{"in BUILDKIT_SYNTAX", bad, "", elsewhere},
		{"Dockerfile unreadable", bad, "", nowhere},
		{"in a build arg", `build arg: option "LOCALFRONT_OFLINE": is unknown: did you mean LOCALFRONT_OFFLINE?`, "", arg},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := run(t, fakegateway.NewBuilder(), tt.what)
			fails(t, err, tt.want, tt.where)
		})
	}
}
