package testregistry

import (
	"bytes"
	"net/http"
)

// statusWriter reports the status of an answer once, before any byte of it is
// sent: whoever has the answer finds it in the log.
type statusWriter struct {
	http.ResponseWriter
	done func(status int)
	sent bool
}

func (w *statusWriter) WriteHeader(status int) {
	if !w.sent {
		w.sent = true
		w.done(status)
		w.ResponseWriter.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if status >= 400 && w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if !w.sent {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// finish reports the implied 200 of a handler that wrote nothing.
func (w *statusWriter) finish() {
	if !w.sent {
		w.WriteHeader(http.StatusOK)
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// memoryWriter keeps an answer instead of sending it.
type memoryWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newMemoryWriter() *memoryWriter { return &memoryWriter{header: http.Header{}} }

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

func (w *memoryWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}
