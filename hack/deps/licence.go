package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is a module that code of the frontend comes from.
type module struct {
	path, version, dir string
	licences           []string // SPDX ids, sorted
}

// modules returns the modules that cmd/frontend is built from, with their
// licences. root is this repository.
func modules(root string) ([]module, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/frontend")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	var mods []module
	var errs []error
	for _, line := range slices.Compact(lines) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue // a package of the standard library
		}
		m := module{path: fields[0], version: fields[1], dir: fields[2]}
		if m.licences, err = licencesIn(m.dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.path, err))
		}
		mods = append(mods, m)
	}
	return mods, errors.Join(errs...)
}

// licencesIn returns the licences of the files at the top of a module that are
// called so, save that of its documentation, which is not shipped. Every such
// file must be known.
func licencesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || name == "LICENSE.DOCS" || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		ids, err := classify(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all = append(all, ids...)
	}
	if len(all) == 0 {
		return nil, errors.New("no file says under which licence it is")
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// rules tell licences by sentences that none of the others has. They are those
// that the work may be shipped with.
var rules = []struct {
	id        string
	sentences []string
	without   string
}{
	{"Apache-2.0", []string{"apache license version 2.0, january 2004"}, ""},
	{"Apache-2.0", []string{`licensed under the apache license, version 2.0 (the "license")`}, "apache license version 2.0, january 2004"},
	{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy", `the software is provided "as is"`}, ""},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "neither the name of"}, ""},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}, "neither the name of"},
	{"ISC", []string{"permission to use, copy, modify, and/or distribute this software for any purpose"}, ""},
	{"ISC", []string{"permission to use, copy, modify, and distribute this software for any purpose"}, ""},
	{"MPL-2.0", []string{"mozilla public license", "version 2.0"}, ""},
}

// refused are words of licences that ask for more than the work gives. Texts
// that mention them are refused whatever else they say, unless it is MPL-2.0,
// which names them as compatible.
var refused = []string{"gnu general public license", "gnu affero", "server side public license", "business source license", "commons clause"}

// classify returns the licences of a text, or an error for one that is unknown
// or refused.
func classify(text string) ([]string, error) {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	var ids []string
	for _, r := range rules {
		fits := r.without == "" || !strings.Contains(text, r.without)
		for _, s := range r.sentences {
			fits = fits && strings.Contains(text, s)
		}
		if fits && !slices.Contains(ids, r.id) {
			ids = append(ids, r.id)
		}
	}
	for _, word := range refused {
		if strings.Contains(text, word) && !slices.Contains(ids, "MPL-2.0") {
			return nil, fmt.Errorf("it mentions the %s", word)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("its licence is unknown: read it, and teach it to hack/deps")
	}
	return ids, nil
}
