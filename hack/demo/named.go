package main

import "strings"

// named is what two of the complaints ask for: a build is the base of the next
// one on the same builder, with no registry between them.
func named(s *stage) {
	s.push("3.20.1")
	syntax := s.pushFrontend()
	s.write("Dockerfile.foo", "# syntax="+syntax+" name=foo\nFROM alpine:3.20\nRUN touch foo\n")
	s.write("Dockerfile.bar", "# syntax="+syntax+"\nFROM foo\nRUN touch bar && ls foo bar > /result\n")
	s.say("Dockerfile.foo has name=foo on its # syntax= line:")
	o := s.build("-f", "Dockerfile.foo")
	s.promise(o.err == nil, o, "foo is built")

	s.say("The network is unplugged. Dockerfile.bar says FROM foo, which is in no registry:")
	s.registry.Stop()
	o = s.builds("bar\nfoo\n", "-f", "Dockerfile.bar")
	s.promise(len(o.requests) == 0, o, "no request at all")
	s.promise(strings.Contains(o.output, "[foo 2/2] RUN touch foo"), o, "foo's steps are part of bar")
}
