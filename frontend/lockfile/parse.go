package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

var (
	// byteOrderMark may begin a file that was saved on Windows.
	byteOrderMark = []byte("\xef\xbb\xbf")
	conflict      = lazy(`(?m)^(<{7} |={7}\r?$|>{7} |\|{7} )`)
	// instruction is how the first line of a Dockerfile begins that is no
	// comment. No line of a lock does.
	instruction = lazy(`^(?i)(FROM|ARG|RUN|COPY|ADD|ENV|LABEL|MAINTAINER)\s`)
)

// lazy returns an expression that is compiled when it is first needed: a build
// without a lock needs none of them.
func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// Parse reads a lock. Its errors are an *Error with the line, or ErrEmpty.
// Whatever is not understood is refused: a lock that is read half would pin
// half.
func Parse(name string, data []byte) (*File, error) {
	p := &parser{file: New(name), data: data, tables: map[Key]int{}}
	p.file.Data = data
	if err := p.preflight(); err != nil {
		return nil, err
	}
	text := bytes.TrimPrefix(data, byteOrderMark)
	p.toml.Reset(text[:len(text):len(text)])
	for p.toml.NextExpression() {
		if err := p.expression(p.toml.Expression()); err != nil {
			return nil, err
		}
	}
	if err := p.toml.Error(); err != nil {
		return nil, p.syntax(err)
	}
	if err := p.endTable(); err != nil {
		return nil, err
	}
	if p.version == 0 {
		return nil, p.fail(1, ErrVersion, "it has no version", "write version = 1 above the first table, or write all of it anew: "+p.update())
	}
	return p.file, nil
}

// parser is one run of Parse.
type parser struct {
	toml unstable.Parser
	file *File
	data []byte

	counted struct{ offset, line int } // how far lines have been counted

	version int         // its line, 0 until it was seen
	tables  map[Key]int // where each table begins
	table   *Entry      // the table being read, nil before the first
	setAt   int         // where its value is
}

// preflight tells apart what would only be a syntax error to TOML.
func (p *parser) preflight() error {
	switch at := conflict().FindIndex(p.data); {
	case len(bytes.TrimSpace(bytes.TrimPrefix(p.data, byteOrderMark))) == 0:
		return ErrEmpty
	case len(p.data) > MaxSize:
		return p.fail(0, ErrSize, fmt.Sprintf("it has more than %d bytes", MaxSize), "write it anew: "+p.update())
	case !utf8.Valid(p.data):
		return p.fail(p.line(invalidAt(p.data)), ErrText, "it is not UTF-8", "save it as UTF-8, or write it anew: "+p.update())
	case at != nil:
		return p.fail(p.line(at[0]), ErrConflict, "merge conflict markers",
			"keep what both sides have and remove the markers, or write it anew: "+p.update())
	}
	for i, line := range strings.Split(string(p.data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if instruction().MatchString(line) {
			return p.fail(i+1, ErrDockerfile, "this is a Dockerfile and no lock (the tern tool writes one under this name)",
				"move it away, then: "+p.update())
		}
		break
	}
	return nil
}

// invalidAt returns where data stops being UTF-8.
func invalidAt(data []byte) int {
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		at += n
	}
	return at
}

// line returns the line of an offset into the data.
func (p *parser) line(offset int) int {
	return 1 + bytes.Count(p.data[:min(offset, len(p.data))], []byte("\n"))
}

// lineOf returns the line of a node. Nodes come in the order of the file, so
// that its lines are counted once.
func (p *parser) lineOf(n *unstable.Node) int {
	to := int(n.Raw.Offset)
	if to < p.counted.offset || p.counted.line == 0 {
		p.counted.offset, p.counted.line = 0, 1
	}
	p.counted.line += bytes.Count(p.toml.Data()[p.counted.offset:to], []byte("\n"))
	p.counted.offset = to
	return p.counted.line
}

// lineOfKey returns the line of the first part of a key.
func (p *parser) lineOfKey(n *unstable.Node) int {
	it := n.Key()
	it.Next()
	return p.lineOf(it.Node())
}

func (p *parser) update() string { return Command(p.file.Name, "update") }

func (p *parser) fail(line int, kind error, reason, remedy string) error {
	const limit = 300 // what is wrong may be how long it is
	if len(reason) > limit {
		reason = strings.ToValidUTF8(reason[:limit], "") + "…"
	}
	return &Error{File: p.file.Name, Data: p.data, Line: line, Kind: kind, Reason: reason, Remedy: remedy}
}

// syntax gives an error of the TOML parser its line.
func (p *parser) syntax(err error) error {
	line := 0
	var perr *unstable.ParserError
	if errors.As(err, &perr) {
		line = p.toml.Shape(p.toml.Range(perr.Highlight)).Start.Line
	}
	return p.fail(line, ErrSyntax, "not TOML: "+err.Error(), "mend the line, or write all of it anew: "+p.update())
}

// expression takes one line.
func (p *parser) expression(n *unstable.Node) error {
	switch n.Kind {
	case unstable.Table:
		return p.beginTable(n)
	case unstable.KeyValue:
		return p.keyValue(n)
	default:
		return p.fail(p.lineOfKey(n), ErrKey, fmt.Sprintf("unknown table %q", path(n)), p.remedyKey())
	}
}

// remedyKey says what could be meant by a table or key that does not exist.
func (p *parser) remedyKey() string {
	return `write [image."NAME"], [git."ADDRESS#REF"] or [http."ADDRESS"], use the version of localfront that wrote it, or write all of it anew: ` + p.update()
}

// keyParts returns the parts of a dotted key, path the whole as one text.
func keyParts(n *unstable.Node) (parts []string) {
	for it := n.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

func path(n *unstable.Node) string { return strings.Join(keyParts(n), ".") }

func (p *parser) beginTable(n *unstable.Node) error {
	if err := p.endTable(); err != nil {
		return err
	}
	line, parts := p.lineOfKey(n), keyParts(n)
	if len(parts) != 2 || !known(Kind(parts[0])) {
		return p.fail(line, ErrKey, fmt.Sprintf("unknown table %q", path(n)), p.remedyKey())
	}
	k, err := NewKey(Kind(parts[0]), parts[1])
	if err != nil {
		return p.fail(line, ErrName, err.Error(), "mend the name or remove the table, then: "+Command(p.file.Name, "add"))
	}
	if first, ok := p.tables[k]; ok {
		return p.fail(line, ErrDuplicate, fmt.Sprintf("%s is pinned a second time, first on line %d", k.Name, first),
			"remove one of the two, or write all of it anew: "+p.update())
	}
	p.tables[k] = line
	p.table, p.setAt = &Entry{Key: k, Line: line}, 0
	return nil
}

func known(k Kind) bool { return k == Image || k == Git || k == HTTP }

// endTable ends the table that was being read.
func (p *parser) endTable() error {
	e := p.table
	if e == nil {
		return nil
	}
	if p.setAt == 0 {
		return p.fail(e.Line, ErrValue, fmt.Sprintf("%s has no %s", e.Name, e.Kind.field()),
			"remove the table, then: "+Command(p.file.Name, "add"))
	}
	p.file.Put(*e)
	return nil
}

func (p *parser) keyValue(n *unstable.Node) error {
	line, key := p.lineOfKey(n), path(n)
	if p.table == nil {
		return p.setVersion(n, line, key)
	}
	field := p.table.Kind.field()
	switch {
	case key != field:
		return p.fail(line, ErrKey, fmt.Sprintf("unknown key %q", key), fmt.Sprintf("a table of kind %s has %s and nothing else: remove the line, or write all of it anew: %s", p.table.Kind, field, p.update()))
	case p.setAt != 0:
		return p.fail(line, ErrDuplicate, fmt.Sprintf("%s is given a second time, first on line %d", field, p.setAt),
			"remove one of the two, or write all of it anew: "+p.update())
	}
	v := n.Value()
	reason := "it is no string"
	if v.Kind == unstable.String {
		reason = ""
		if err := CheckValue(p.table.Kind, string(v.Data)); err != nil {
			reason = err.Error()
		}
	}
	if reason != "" {
		return p.fail(line, ErrValue, fmt.Sprintf("%s of %s: %s", field, p.table.Name, reason),
			"remove the table, then: "+Command(p.file.Name, "add"))
	}
	p.table.Value, p.setAt = string(v.Data), line
	return nil
}

// setVersion takes a key above the first table.
func (p *parser) setVersion(n *unstable.Node, line int, key string) error {
	switch {
	case key != "version":
		return p.fail(line, ErrKey, fmt.Sprintf("unknown key %q", key), p.remedyKey())
	case p.version != 0:
		return p.fail(line, ErrDuplicate, fmt.Sprintf("version is given a second time, first on line %d", p.version), "remove one of the two, or write all of it anew: "+p.update())
	}
	v := n.Value()
	number, err := strconv.ParseUint(string(v.Data), 10, 31)
	switch {
	case v.Kind != unstable.Integer || err != nil || number < 1:
		return p.fail(line, ErrVersion, "version is no version", "write version = 1, or write all of it anew: "+p.update())
	case number > Version:
		return p.fail(line, ErrVersion, fmt.Sprintf("version %d is newer than this localfront, which reads version %d", number, Version),
			"use a newer localfront in the # syntax= line, or write all of it anew: "+p.update())
	}
	p.version = line
	return nil
}
