// Command tool is what the tests' Dockerfiles RUN: an image from scratch has no shell.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"time"
)

func main() {
	switch args := os.Args[2:]; os.Args[1] {
	case "write":
		check(os.WriteFile(args[0], []byte(args[1]), 0o600))
	case "remove":
		check(os.RemoveAll(args[0]))
	case "fail":
		fmt.Println("said before failing")
		os.Exit(3)
	case "network":
		ifs, err := net.Interfaces()
		check(err)
		ns, err := os.Readlink("/proc/self/ns/net")
		check(err)
		text := ns
		if len(args) > 1 { // the number of a namespace differs between builds
			text = map[bool]string{true: "that", false: "another"}[ns == args[1]]
		}
		for _, i := range ifs {
			text += " " + i.Name
		}
		check(os.WriteFile(args[0], []byte(text), 0o644))
	case "wait":
		fmt.Println("waiting")
		signal.Ignore()
		time.Sleep(time.Hour)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
