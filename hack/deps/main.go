// Command deps lists the modules that the frontend is made of with their
// licences, or writes them as an SBOM of the image:
//
//	go run ./hack/deps            a table: module, version, licence
//	go run ./hack/deps -sbom      SPDX 2.3, as JSON
//
// It fails for a licence that it does not know, and for one that the work may
// not be shipped with.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	sbom := flag.Bool("sbom", false, "write an SBOM")
	flag.Parse()
	write := table
	if *sbom {
		write = spdx
	}
	mods, err := modules(".")
	if err == nil {
		err = write(os.Stdout, mods)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "deps:", err)
		os.Exit(1)
	}
}

// table writes one line for each module.
func table(w io.Writer, mods []module) error {
	for _, m := range mods {
		if _, err := fmt.Fprintf(w, "%s %s %s\n", m.path, m.version, strings.Join(m.licences, " AND ")); err != nil {
			return err
		}
	}
	return nil
}

// spdx writes the modules as an SPDX document. It has no time and no random id,
// so that the same sources have the same SBOM.
func spdx(w io.Writer, mods []module) error {
	type externalRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		ID       string        `json:"SPDXID"`
		Name     string        `json:"name"`
		Version  string        `json:"versionInfo"`
		Download string        `json:"downloadLocation"`
		Licence  string        `json:"licenseConcluded"`
		Refs     []externalRef `json:"externalRefs"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	doc := struct {
		Version   string         `json:"spdxVersion"`
		Licence   string         `json:"dataLicense"`
		ID        string         `json:"SPDXID"`
		Name      string         `json:"name"`
		Namespace string         `json:"documentNamespace"`
		Creation  map[string]any `json:"creationInfo"`
		Packages  []pkg          `json:"packages"`
		Relations []relation     `json:"relationships"`
	}{
		Version: "SPDX-2.3", Licence: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "localfront",
		Namespace: "https://github.com/org/localfront/sbom",
		Creation:  map[string]any{"created": "1970-01-01T00:00:00Z", "creators": []string{"Tool: localfront-hack-deps"}},
	}
	for i, m := range mods {
		id := fmt.Sprintf("SPDXRef-Module-%d", i)
		doc.Packages = append(doc.Packages, pkg{
			ID: id, Name: m.path, Version: m.version, Download: "NOASSERTION", Licence: strings.Join(m.licences, " AND "),
			Refs: []externalRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.path + "@" + m.version}},
		})
		doc.Relations = append(doc.Relations, relation{doc.ID, "DESCRIBES", id})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}
