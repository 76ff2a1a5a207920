package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/org/localfront/internal/testimage"
)

const hostArch = runtime.GOARCH

const dockerfile = `FROM alpine:3.20
COPY message .
RUN cat message /etc/release > /result
FROM scratch
COPY --from=0 /result /
`

// today is the complaint, on the frontend that comes with the daemon.
func today(s *stage) {
	s.push("3.20.1")
	s.write("Dockerfile", dockerfile)
	s.write("message", "hello\n")
	s.say("The Dockerfile says FROM alpine:3.20. The first build, then the same again:")
	s.build()
	again := s.build()
	s.promise(again.err == nil && again.about("library/alpine") > 0, again, "the official frontend asks again")
	s.say("The network is unplugged (the registry is stopped). Nothing has changed, all is cached:")
	s.registry.Stop()
	offline := s.build()
	s.promise(offline.err != nil, offline, "the official frontend fails offline")
}

// remembered is the same with localfront.
func remembered(s *stage) {
	s.push("3.20.1")
	syntax := s.pushFrontend()
	s.write("Dockerfile", "# syntax="+syntax+"\n"+dockerfile)
	s.write("message", "hello\n")
	s.say("One line more in the Dockerfile: # syntax=" + syntax[:len("ghcr.io/org/localfront:1@sha256:")+6] + "…")
	o := s.builds("hello\n3.20.1\n")
	s.promise(o.about("library/alpine") > 0, o, "the first build asks the registry")

	s.say("The network is unplugged. The same again, and then with a changed file, so that steps run:")
	s.registry.Stop()
	s.builds("hello\n3.20.1\n")
	s.write("message", "hello from the train\n")
	s.builds("hello from the train\n3.20.1\n")
	s.Must(s.registry.Start())

	movedTag(s)
	s.say("A name that this builder has never seen, where the network must not be touched:")
	s.write("Dockerfile", "# syntax="+syntax+"\nFROM debian:12\n")
	o = s.build("--build-arg", "LOCALFRONT_OFFLINE=1")
	s.promise(o.err != nil && strings.Contains(o.output, "debian:12"), o, "an error that names the image")
	s.promise(len(o.requests) == o.about("org/localfront"), o, "no request but for the frontend")
}

// movedTag has alpine:3.20 stand for another image upstream.
func movedTag(s *stage) {
	s.say("The network is back, and upstream moves the tag: alpine:3.20 is now release 3.20.2.",
		"Nothing changes under you:")
	s.push("3.20.2")
	o := s.builds("hello from the train\n3.20.1\n")
	s.promise(o.about("library/alpine") == 0, o, "no request without --pull")

	s.say("With --pull the registry is asked, and what it says is remembered from now on:")
	o = s.builds("hello from the train\n3.20.2\n", "--pull", "--provenance=false")
	s.promise(o.about("library/alpine") > 0, o, "--pull asks the registry")

	// Provenance names an image by its registry, and the CLI asks for it by
	// default: then a daemon that has just started looks there by digest.
	s.say("The daemon is restarted, which makes it forget its connections, and the file changes. Nothing is",
		"asked again about alpine; for the frontend, pinned by digest, there is one look that may fail:")
	s.daemon.Restart(s)
	s.write("message", "hello again\n")
	o = s.builds("hello again\n3.20.2\n", "--provenance=false")
	s.promise(o.about("library/alpine") == 0, o, "no request for a remembered image, restart or not")

	s.say("Restarted and unplugged:")
	s.registry.Stop()
	s.daemon.Restart(s)
	s.write("message", "hello from the tunnel\n")
	s.builds("hello from the tunnel\n3.20.2\n")
	s.Must(s.registry.Start())
}

// pushFrontend builds the frontend's image as the repository's Dockerfile says,
// with the binary that make frontend has left in bin, and returns the reference
// that people pin.
func (s *stage) pushFrontend() string {
	root, err := testimage.RepoRoot()
	s.Must(err)
	s.quietly("build", "--builder", "demo", "--build-context", "build="+filepath.Join(root, "bin"),
		"--output", "type=image,push=true,name="+s.registry.Ref("org/localfront:1"), root)
	digest, err := s.registry.Digest("org/localfront:1")
	s.Must(err)
	return "ghcr.io/org/localfront:1@" + digest
}

// builds is build for a build that has to succeed with a certain /result.
func (s *stage) builds(want string, args ...string) outcome {
	o := s.build(append(args, "-o", "out")...)
	s.promise(o.err == nil, o, "the build succeeds")
	got, err := os.ReadFile(filepath.Join(s.dir, "out", "result"))
	s.Must(err)
	s.promise(string(got) == want, o, "the result is %q, not %q", want, got)
	return o
}

func (*stage) say(lines ...string) { fmt.Printf("\n   %s\n", strings.Join(lines, "\n   ")) }
