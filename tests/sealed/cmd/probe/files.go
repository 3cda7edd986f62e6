package main

import (
	"crypto/subtle"
	"flag"
	"fmt"
	"net/http"
	"os"
)

// files serves a folder over TLS to whoever knows the password, until it is killed.
func files(args []string) int {
	fs := flag.NewFlagSet("files", flag.ContinueOnError)
	listen := fs.String("listen", ":8443", "address to answer on")
	folder := fs.String("folder", ".", "what is served")
	cert := fs.String("cert", "cert.pem", "certificate")
	key := fs.String("key", "key.pem", "its key")
	user := fs.String("user", "", "who may ask")
	password := fs.String("password", "", "with what password")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	served := http.FileServer(http.Dir(*folder))
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	err := http.ListenAndServeTLS(*listen, *cert, *key, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); !same(u, *user) || !same(p, *password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="files"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Println("probe: asked for", r.URL.Path)
		served.ServeHTTP(w, r)
	}))
	fmt.Fprintln(os.Stderr, "probe:", err)
	return 1
}
