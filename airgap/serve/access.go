package serve

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Access is a request that was answered.
type Access struct {
	Time    time.Time     `json:"time"`
	Client  string        `json:"client"` // address
	User    string        `json:"user,omitempty"`
	Method  string        `json:"method"`
	Path    string        `json:"path"` // with its query
	Status  int           `json:"status"`
	Bytes   int64         `json:"bytes"` // of the body
	Elapsed time.Duration `json:"elapsedNanoseconds"`
	Agent   string        `json:"agent,omitempty"`
	// Err is what went wrong on the way, or with the bundle; not what a client did.
	Err string `json:"error,omitempty"`
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	start  time.Time
	status int
	sent   int64
	user   string
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that a file goes from the kernel to the kernel.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, r)
	w.sent += n
	return n, err
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) access(r *http.Request, err error) Access {
	client, _, splitErr := net.SplitHostPort(r.RemoteAddr)
	if splitErr != nil {
		client = r.RemoteAddr
	}
	a := Access{
		Time: w.start, Client: client, User: w.user, Method: r.Method, Path: r.URL.RequestURI(),
		Status: w.status, Bytes: w.sent, Elapsed: time.Since(w.start), Agent: r.UserAgent(),
	}
	var f *failure
	switch {
	case err == nil:
	case !errors.As(err, &f):
		a.Err = err.Error()
	case f.cause != nil:
		a.Err = f.cause.Error()
	}
	return a
}
