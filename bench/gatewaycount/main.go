// Command gatewaycount stands before a frontend in its image and reports what
// passes between it and BuildKit: each call of the gateway with its times, and
// what the process took. It changes no byte of the gRPC connection on stdin and
// stdout; it only reads along. The report is one line on stderr, which is the
// daemon's log.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// start is when the container's process began.
var start = time.Now()

// call is one call of the gateway. Times are in milliseconds since start.
type call struct {
	Name  string  `json:"name"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

// report is what is printed.
type report struct {
	Calls []*call `json:"calls"`
	Wall  float64 `json:"wall"` // milliseconds from start to the frontend's end
	CPU   float64 `json:"cpu"`  // milliseconds of processor
	Peak  int64   `json:"peak"` // KiB of memory at most
}

// recorder gathers calls by HTTP/2 stream. The two directions are read apart, so
// an answer may be seen before its call.
type recorder struct {
	mu     sync.Mutex
	calls  []*call
	stream map[*call]uint32
	ended  map[uint32]float64
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "gatewaycount: name the frontend to run")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	rec := &recorder{stream: map[*call]uint32{}, ended: map[uint32]float64{}}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	// What the daemon sends ends only with this process.
	go func() { _ = along(in, os.Stdin, rec.answers) }()
	var requests sync.WaitGroup
	requests.Go(func() { _ = along(os.Stdout, out, rec.requests) })
	requests.Wait()
	err = cmd.Wait()
	rec.report(cmd.ProcessState)
	if err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "gatewaycount:", err)
	return 1
}

// along copies src to dst while read reads the same bytes.
func along(dst io.Writer, src io.Reader, read func(io.Reader)) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		read(r)
		_, _ = io.Copy(io.Discard, r) // never hold the connection up
	}()
	_, err := io.Copy(io.MultiWriter(w, dst), src)
	_ = w.Close()
	<-done
	return err
}

// requests reads what the frontend sends: each HEADERS frame opens a call.
func (r *recorder) requests(src io.Reader) {
	b := bufio.NewReader(src)
	if _, err := b.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	f := http2.NewFramer(io.Discard, b)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			r.open(h.StreamID, path.Base(h.PseudoValue("path")))
		}
	}
}

// answers reads what the daemon sends: the end of a stream ends its call.
func (r *recorder) answers(src io.Reader) {
	f := http2.NewFramer(io.Discard, src)
	f.SetMaxReadFrameSize(1<<24 - 1)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if h := frame.Header(); (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) && h.Flags.Has(http2.FlagHeadersEndStream) {
			r.end(h.StreamID)
		}
	}
}

func now() float64 { return float64(time.Since(start).Microseconds()) / 1000 }

func (r *recorder) open(stream uint32, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &call{Name: name, Start: now()}
	r.calls = append(r.calls, c)
	r.stream[c] = stream
}

func (r *recorder) end(stream uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[stream] = now()
}

func (r *recorder) report(state *os.ProcessState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		c.End = max(c.Start, r.ended[r.stream[c]])
	}
	rep := report{
		Calls: slices.Clip(r.calls),
		Wall:  now(),
		CPU:   float64((state.UserTime() + state.SystemTime()).Microseconds()) / 1000,
	}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		rep.Peak = usage.Maxrss
	}
	line, err := json.Marshal(rep)
	if err != nil {
		return
	}
	fmt.Fprintf(os.Stderr, "gatewaycount: %s\n", line)
}
