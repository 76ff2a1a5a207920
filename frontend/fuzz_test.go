package frontend

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzOptions checks that words and build args of any kind are options or an
// OptionError that says which and what to do, and never both.
func FuzzOptions(f *testing.F) {
	for _, o := range known {
		f.Add(image+" "+o.word, o.buildArg(), "1")
		f.Add(image+" "+o.word+"=7d,x", o.buildArg(), "")
	}
	f.Add(" \t"+image, "LOCALFRONT_", "=")
	f.Fuzz(func(t *testing.T, cmdline, arg, value string) {
		opts := map[string]string{keyCmdline: cmdline, argPrefix + arg: value}
		o, err := parseOptions(opts)
		if err == nil {
			if again, err := parseOptions(opts); err != nil || !reflect.DeepEqual(o, again) {
				t.Fatalf("parsed again: %+v, %v", again, err)
			}
			return
		}
		var oe *OptionError
		if !errors.As(err, &oe) || oe.Reason == "" || oe.Remedy == "" {
			t.Fatalf("error without a remedy: %v", err)
		}
		if oe.OnSyntaxLine && !strings.Contains(cmdline, oe.Option) {
			t.Fatalf("%q is not in %q", oe.Option, cmdline)
		}
	})
}
