// Command echo is the application of end-to-end tests: a server whose answers say which
// pod gave them, and the client that is run beside it in its container, because images
// here have no shell. What it prints is JSON, a line an answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is filled in by the linker with the component's declared version.
var version = "unknown"

const usage = `usage: echo serve [-listen ADDRESS] [-drain DURATION]
       echo get [-host NAME] [-timeout DURATION] URL…
       echo resolve [-timeout DURATION] NAME…
       echo load [-host NAME] [-for DURATION] [-until-eof] [-workers N]
                 [-pause DURATION] [-timeout DURATION] URL
       echo version
`

// errFailed is for what was printed already.
var errFailed = errors.New("not all went well")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	switch {
	case err == nil:
	case errors.Is(err, errFailed):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(2)
	}
}

// streams are a command's own.
type streams struct {
	in       io.Reader
	out, log io.Writer
}

func run(ctx context.Context, args []string, s streams) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	commands := map[string]func(context.Context, []string, streams) error{
		"serve": serve, "get": get, "resolve": resolve, "load": load,
		"version": func(_ context.Context, _ []string, s streams) error {
			_, err := fmt.Fprintln(s.out, "echo", version)
			return err
		},
	}
	command, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
	return command(ctx, args[1:], s)
}

// flags are those of one command.
func flags(name string, log io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("echo "+name, flag.ContinueOnError)
	f.SetOutput(log)
	return f
}

// line prints a value as one line of JSON.
func line(out io.Writer, value any) error {
	return json.NewEncoder(out).Encode(value)
}
