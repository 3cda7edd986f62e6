// Command probe is what the tests run in a pod: it needs nothing but the kernel,
// answers on a port, writes to its log, and says hello when it is run again in
// its container. On a host it can stand for a site's server of files.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	listen := flag.String("listen", ":8080", "address that serve answers on")
	flag.Parse()
	switch flag.Arg(0) {
	case "serve":
		os.Exit(serve(*listen))
	case "exec-hello":
		host, err := os.Hostname()
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			os.Exit(1)
		}
		fmt.Println("hello from", host)
	case "files":
		os.Exit(files(flag.Args()[1:]))
	default:
		fmt.Fprintln(os.Stderr, "usage: probe [-listen ADDRESS] serve | exec-hello | files [OPTION…]")
		os.Exit(2)
	}
}

func serve(listen string) int {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("probe: asked for", r.URL.Path)
		fmt.Fprintln(w, "probe answers", r.URL.Path)
	})
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(listen, nil) }()
	fmt.Println("probe: listening on", listen)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		fmt.Fprintln(os.Stderr, "probe:", err)
		return 1
	case s := <-stop:
		fmt.Println("probe: stopped by", s)
		return 0
	}
}
