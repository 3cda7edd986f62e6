// Command install-cni makes a host ready for pods: it puts CNI plugins where the
// container runtime looks for them and, when the pod network works, the configuration
// that says so. It is what network charts run on every node, in images with no shell.
//
// Files appear whole or not at all (temporary sibling, fsync, rename), so a plugin that a
// pod is being started with can be replaced, and what is the same already is left alone.
// A node is Ready, and gets pods, when the configuration is there; so it comes last.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// version is filled in by the linker with the plugins' declared version.
var version = "unknown"

const usage = `Copies CNI plugins from this image to the host and, with -conf, their configuration.

Usage: install-cni [flags] [PLUGIN…]
       install-cni -conf FILE -template FILE [flags] [PLUGIN…] [-- PROGRAM [ARGUMENT…]]

Without PLUGIN it copies every plugin of the image. Without -conf it exits then. With it,
it waits until -api-resources are served, runs the program of -once, starts PROGRAM, waits
for the files of -after-new and -variables, writes the configuration, and stays: as long
as PROGRAM runs, or until it is told to end.

`

// skipVar names plugins, separated by commas, that are not copied: an operator's own
// stay where they are.
const skipVar = "SKIP_CNI_BINARIES"

// options are the command line.
type options struct {
	from, to     string
	plugins      []string
	skip         []string
	conf         configuration
	apiResources string
	once         string
	onceMakes    string
	afterNew     string
	program      []string
}

func main() {
	o, err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = o.run(ctx, os.Stdout, inCluster)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "install-cni:", err)
		os.Exit(1)
	}
}

// parse answers -version itself, with flag.ErrHelp.
func parse(args []string, out io.Writer) (*options, error) {
	o := &options{}
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.program = args[:i], args[i+1:]
	}
	fs := flag.NewFlagSet("install-cni", flag.ContinueOnError)
	fs.StringVar(&o.from, "from", "/opt/cni/bin", "folder of the plugins")
	fs.StringVar(&o.to, "to", "/host/opt/cni/bin", "where the host's folder of plugins is mounted")
	skip := fs.String("skip", os.Getenv(skipVar), "plugins not to copy, separated by commas [$"+skipVar+"]")
	fs.StringVar(&o.conf.file, "conf", "", "configuration to write for the container runtime")
	fs.StringVar(&o.conf.template, "template", "", "what to write: JSON in which ${NAME} stands for a variable")
	fs.StringVar(&o.conf.variables, "variables", "", "file of NAME=VALUE lines to wait for; others are taken from the environment")
	fs.StringVar(&o.apiResources, "api-resources", "", "GROUP/VERSION:RESOURCE,… that the API server must serve first")
	fs.StringVar(&o.once, "once", "", "program and arguments, separated by spaces, to run until it succeeds")
	fs.StringVar(&o.onceMakes, "once-makes", "", "path of the API object that exists when -once succeeded")
	fs.StringVar(&o.afterNew, "after-new", "", "file that PROGRAM writes before the configuration may be")
	show := fs.Bool("version", false, "print the version and exit")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if *show {
		fmt.Fprintln(out, "install-cni", version)
		return nil, flag.ErrHelp
	}
	o.plugins, o.skip = fs.Args(), strings.Split(*skip, ",")
	return o, o.check()
}

// check refuses what would do something else than it says.
func (o *options) check() error {
	var err error
	switch {
	case (o.conf.file == "") != (o.conf.template == ""):
		err = errors.New("-conf and -template go together")
	case o.conf.file == "" && (o.apiResources+o.once+o.onceMakes+o.afterNew+o.conf.variables != "" || len(o.program) > 0):
		err = errors.New("without -conf plugins are all that is installed")
	case o.afterNew != "" && len(o.program) == 0:
		err = errors.New("-after-new needs the PROGRAM that writes the file")
	case o.onceMakes != "" && o.once == "":
		err = errors.New("-once-makes needs -once")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "install-cni:", err)
	}
	return err
}

// run returns when everything is installed or, with a configuration, when PROGRAM or ctx
// ended. connect gives the API that is waited for.
func (o *options) run(ctx context.Context, out io.Writer, connect func() (api, error)) error {
	if o.conf.file == "" {
		return install(out, o.from, o.to, o.plugins, o.skip)
	}
	// Copying takes about as long as the API server's resources, so both at once.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	installed := make(chan error, 1)
	go func() {
		err := install(out, o.from, o.to, o.plugins, o.skip)
		if err != nil {
			cancel()
		}
		installed <- err
	}()
	running, err := o.prepare(ctx, out, connect)
	if running != nil {
		defer running.end()
	}
	// Without plugins nothing else matters, and what was cancelled is no error of its own.
	if failed := <-installed; failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	return o.keep(ctx, out, running)
}

// prepare does all that comes before the configuration. The child is PROGRAM, if there
// is one; it runs also when there is an error.
func (o *options) prepare(ctx context.Context, out io.Writer, connect func() (api, error)) (*child, error) {
	if o.apiResources != "" || o.onceMakes != "" {
		server, err := connect()
		if err != nil {
			return nil, err
		}
		if err := o.prepareCluster(ctx, out, server); err != nil {
			return nil, err
		}
	} else if err := o.runOnce(ctx, out, nil); err != nil {
		return nil, err
	}
	if len(o.program) == 0 {
		return nil, nil
	}
	before := time.Now()
	running, err := startChild(out, o.program)
	if err != nil || o.afterNew == "" {
		return running, err
	}
	return running, await(ctx, out, o.afterNew+", which "+o.program[0]+" writes", func() error {
		if err := running.exited(); err != nil {
			return final{err}
		}
		return newer(o.afterNew, before)
	})
}

func (o *options) prepareCluster(ctx context.Context, out io.Writer, server api) error {
	if o.apiResources != "" {
		version, names, ok := strings.Cut(o.apiResources, ":")
		if !ok {
			return fmt.Errorf("-api-resources is %q, want GROUP/VERSION:RESOURCE,…", o.apiResources)
		}
		err := await(ctx, out, "the API server to serve "+version, func() error {
			return server.serves(ctx, version, strings.Split(names, ","))
		})
		if err != nil {
			return err
		}
	}
	var made func() error
	if o.onceMakes != "" {
		made = func() error { return server.exists(ctx, o.onceMakes) }
	}
	return o.runOnce(ctx, out, made)
}

// runOnce runs the program of -once until it succeeds and, if it is not nil, made does.
func (o *options) runOnce(ctx context.Context, out io.Writer, made func() error) error {
	command := strings.Fields(o.once)
	if len(command) == 0 {
		return nil
	}
	return awaitEvery(ctx, out, time.Second, o.once+" to succeed", func() error {
		running, err := startChild(out, command)
		if err != nil {
			return final{err}
		}
		select {
		case <-ctx.Done():
			running.end()
			return ctx.Err()
		case <-running.done:
		}
		if running.err != nil || made == nil {
			return running.err
		}
		return made()
	})
}

// keep writes the configuration and, as long as PROGRAM and ctx last, writes it again
// when its variables change.
func (o *options) keep(ctx context.Context, out io.Writer, running *child) error {
	var text []byte
	err := await(ctx, out, "what the configuration needs", func() (err error) {
		if err := running.exited(); err != nil {
			return final{err}
		}
		text, err = o.conf.render()
		return err
	})
	if err != nil {
		return err
	}
	if err := o.conf.write(out, text); err != nil {
		return err
	}
	look := time.NewTicker(10 * time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-running.ended():
			return running.exited()
		case <-look.C:
		}
		now, err := o.conf.render()
		if err != nil || string(now) == string(text) {
			continue // a file that is just being replaced says nothing
		}
		if err := o.conf.write(out, now); err != nil {
			return err
		}
		text = now
	}
}
