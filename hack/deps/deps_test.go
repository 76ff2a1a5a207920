package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite licences.txt")

// TestLicences: every module that ships has a licence that is known, and the
// list of them is the one under review.
func TestLicences(t *testing.T) {
	t.Parallel()
	mods, err := modules("../..")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := table(&got, mods); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("licences.txt", got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("licences.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("modules and licences (-want +got), go test ./hack/deps -update rewrites them:\n%s", diff)
	}
	var doc map[string]any
	var sbom bytes.Buffer
	if err := spdx(&sbom, mods); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(sbom.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if n := len(doc["packages"].([]any)); n != len(mods) {
		t.Errorf("the SBOM has %d packages, want %d", n, len(mods))
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	const bsd = "Redistribution and use in source and binary\nforms, with or without modification"
	for text, want := range map[string]string{
		"Apache License\n  Version 2.0, January 2004\n": "Apache-2.0",
		bsd:                               "BSD-2-Clause",
		bsd + "\n* Neither the name of X": "BSD-3-Clause",
		"Mozilla Public License Version 2.0 … GNU General Public License":  "MPL-2.0",
		"GNU General Public License":                                       "it mentions the gnu general public license",
		"Apache License Version 2.0, January 2004 with the Commons Clause": "it mentions the commons clause",
		"All rights reserved.":                                             "its licence is unknown: read it, and teach it to hack/deps",
		"":                                                                 "its licence is unknown: read it, and teach it to hack/deps",
	} {
		ids, err := classify(text)
		got := strings.Join(ids, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
