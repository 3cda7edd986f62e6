package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/k3s-io/k3s/pkg/cli/cert"
	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/cli/etcdsnapshot"
	"github.com/k3s-io/k3s/pkg/cli/secretsencrypt"
	"github.com/k3s-io/k3s/pkg/cli/token"
	"github.com/k3s-io/k3s/pkg/configfilearg"
	"github.com/k3s-io/k3s/pkg/version"
	"github.com/urfave/cli/v2"

	"github.com/rancher/rke2/runtime/config"
)

// localServer is where a server's own supervisor listens.
const localServer = "https://127.0.0.1:9345"

// fromFile are the options that a command takes from the node's configuration file:
// where the node is, and how its snapshots are kept. Whom to talk to, and what to do
// there, is said on the command line only.
func fromFile(name string) bool {
	return name == "data-dir" || name == "debug" || name == "node-name" ||
		strings.HasPrefix(name, "etcd-snapshot-") || strings.HasPrefix(name, "etcd-s3")
}

// bootstrapToken is what `rke2 token generate` makes.
var bootstrapToken = regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)

// subcommand finds one of the engine's own commands by its path, such as
// "etcd-snapshot save".
func subcommand(path string) (*cli.Command, error) {
	group, name, _ := strings.Cut(path, " ")
	for _, g := range []*cli.Command{
		cmds.NewEtcdSnapshotCommands(etcdsnapshot.Delete, etcdsnapshot.List, etcdsnapshot.Prune, etcdsnapshot.Save),
		cmds.NewCertCommands(cert.Check, cert.Rotate, cert.RotateCA),
		cmds.NewSecretsEncryptCommands(secretsencrypt.Status, secretsencrypt.Enable, secretsencrypt.Disable,
			secretsencrypt.Prepare, secretsencrypt.Rotate, secretsencrypt.Reencrypt, secretsencrypt.RotateKeys),
		cmds.NewTokenCommands(token.Create, token.Delete, token.Generate, listTokens, token.Rotate),
	} {
		for _, c := range g.Subcommands {
			if g.Name == group && c.Name == name {
				c.Flags = subcommandFlags(c.Flags)
				return c, nil
			}
		}
	}
	return nil, fmt.Errorf("the engine has no command %q", path)
}

// subcommandFlags are a command's, as they are on this product: its supervisor's
// port, one name for each, and the node's configuration file with every command.
func subcommandFlags(theirs []cli.Flag) []cli.Flag {
	var flags []cli.Flag
	have := map[string]bool{}
	for _, f := range theirs {
		if s, ok := f.(*cli.StringFlag); ok && strings.HasPrefix(s.Value, "https://127.0.0.1:") {
			here := *s
			here.Value = localServer
			f = &here
		}
		if n, ok := f.(*cli.IntFlag); ok && strings.HasSuffix(n.Name, ",") {
			here := *n
			here.Name = strings.TrimSuffix(n.Name, ",")
			f = &here
		}
		switch name := f.Names()[0]; {
		case name == "log" || name == "alsologtostderr" || have[name]:
		default:
			have[name] = true
			flags = append(flags, f)
		}
	}
	for _, f := range []cli.Flag{cmds.ConfigFlag, cmds.DebugFlag} {
		if !have[f.Names()[0]] {
			flags = append(flags, f)
		}
	}
	return flags
}

// SubcommandFlags lists the options of one of the engine's commands.
func SubcommandFlags(path string) ([]Flag, error) {
	c, err := subcommand(path)
	if err != nil {
		return nil, err
	}
	var out []Flag
	for _, f := range c.Flags {
		d := describe(f)
		out = append(out, d)
		for _, alias := range f.Names()[1:] {
			if len(alias) > 1 {
				other := d
				other.Name, other.Shorthand, other.Hidden = alias, "", true
				out = append(out, other)
			}
		}
	}
	return out, nil
}

// describe is an option of a subcommand as the command line shows it.
func describe(f cli.Flag) Flag {
	d := Flag{Name: f.Names()[0]}
	for _, alias := range f.Names() {
		if len(alias) == 1 {
			d.Shorthand = alias
		}
	}
	if doc, ok := f.(cli.DocGenerationFlag); ok {
		d.Usage, d.Env, d.Default = doc.GetUsage(), doc.GetEnvVars(), strings.Trim(doc.GetDefaultText(), `"`)
		if d.Default == "" {
			d.Default = strings.Trim(doc.GetValue(), `"`)
		}
	}
	switch f.(type) {
	case *cli.BoolFlag:
		d.Bool = true
		if d.Default == "false" {
			d.Default = ""
		}
	case *cli.StringSliceFlag:
		d.Multi, d.Default = true, ""
	}
	if d.Name == "data-dir" {
		d.Usage = "Folder that holds the node's state (default " + config.DefaultDataDir + ")"
	}
	return d
}

// RunSubcommand runs one of the engine's commands, once in a process: it keeps its
// settings in globals. Options stand before other arguments, as --name=value. What
// it prints goes to this process' standard output, what it logs to standard error.
func RunSubcommand(path string, args []string) error {
	if err := checkProgram(); err != nil {
		return err
	}
	c, err := subcommand(path)
	if err != nil {
		return err
	}
	args, err = withConfigFile(c.Flags, args)
	if err != nil {
		return err
	}
	dataDir := option(args, config.DefaultDataDir, "data-dir", "d")
	// The engine looks for its token in the default place only, and takes a token to
	// be deleted in one form only.
	switch path {
	case "token rotate":
		if option(args, os.Getenv("RKE2_TOKEN"), "token", "t") == "" {
			secret, err := serverToken(dataDir)
			if err != nil {
				return err
			}
			args = append([]string{"--token=" + secret}, args...)
		}
		if next := option(args, "", "new-token"); bootstrapToken.MatchString(next) {
			return fmt.Errorf("--new-token %s has the form of a bootstrap token, which a server token must not have: give another, or none to have one made up", next)
		}
	case "secrets-encrypt rotate-keys":
		fmt.Fprintln(os.Stderr, "waiting for the API server to take the new key, which it looks for once a minute; then every Secret is written anew")
	case "token delete":
		args = tokenIDs(args)
	case "certificate rotate-ca":
		r, err := newRotation(option(args, "", "path"), filepath.Join(dataDir, "server", "tls"))
		if err != nil {
			return err
		}
		folder, err := r.layOut()
		if err != nil {
			return fmt.Errorf("laying out the new authorities: %w", err)
		}
		defer func() { _ = os.RemoveAll(folder) }() // links only
		args = append(args, "--path="+folder)
		fmt.Println("new:", strings.Join(r.fresh, ", "))
	}
	app := cli.NewApp()
	app.Name, app.HideHelp, app.DisableSliceFlagSeparator = "rke2", true, true
	app.ExitErrHandler = func(*cli.Context, error) {}
	c.HideHelp = true
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return err }
	app.Commands = []*cli.Command{c}
	if err := app.Run(append([]string{"rke2", c.Name}, args...)); err != nil && !errors.Is(err, context.Canceled) {
		return explain(err, dataDir)
	}
	return nil
}

// withConfigFile adds what the node's configuration file says of a command's options
// that were not given.
func withConfigFile(flags []cli.Flag, args []string) ([]string, error) {
	parser := configfilearg.Parser{
		ConfigFlags: []string{"--config", "-c"}, EnvName: "RKE2_CONFIG_FILE", DefaultConfig: "/etc/rancher/rke2/config.yaml",
	}
	var more []string
	for _, f := range flags {
		names := f.Names()
		if slices.ContainsFunc(names, func(n string) bool { return given(args, n) }) {
			continue
		}
		for _, name := range names {
			if !fromFile(name) {
				continue
			}
			value, err := parser.FindString(args, name)
			if err != nil {
				return nil, fmt.Errorf("reading the configuration file: %w", err)
			}
			if value != "" {
				more = append(more, "--"+name+"="+value)
				break
			}
		}
	}
	return append(more, args...), nil
}

func given(args []string, name string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "-") && strings.HasPrefix(strings.TrimLeft(a, "-")+"=", name+"=")
	})
}

// option is the value of an option that was given by any of its names.
func option(args []string, otherwise string, names ...string) string {
	for _, a := range args {
		name, value, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if ok && strings.HasPrefix(a, "-") && slices.Contains(names, name) {
			otherwise = value
		}
	}
	return otherwise
}

// tokenIDs cuts bootstrap tokens down to their ids.
func tokenIDs(args []string) []string {
	var out []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			if _, secret, ok := strings.Cut(a, "::"); ok {
				a = secret
			}
			a, _, _ = strings.Cut(a, ".")
		}
		out = append(out, a)
	}
	return out
}

// checkProgram refuses to run a binary that would take itself for another product:
// paths, names and the supervisor's addresses come from the engine's own variable.
func checkProgram() error {
	if version.Program != "rke2" {
		return fmt.Errorf("this binary was built without -ldflags=-X=github.com/k3s-io/k3s/pkg/version.Program=rke2 (it would be %q to its cluster): build it with make", version.Program)
	}
	return nil
}

func serverToken(dataDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "server", "token"))
	if err != nil {
		return "", explain(err, dataDir)
	}
	return strings.TrimSpace(string(b)), nil
}

// explain says what to do about an error of a command that talks to the server.
func explain(err error, dataDir string) error {
	var at *fs.PathError
	var dialled *url.Error
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &at) && filepath.Base(at.Path) == "token":
		return fmt.Errorf("%w: no server has run on this host with the data directory %s: run the command on a server, or give its --data-dir", err, dataDir)
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &at) && strings.HasSuffix(at.Path, ".yaml"):
		return fmt.Errorf("%w: no server has run on this host: run the command on a server, or name an administrator's file with --kubeconfig", err)
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &at):
		return fmt.Errorf("%w: run the command as root", err)
	case errors.As(err, &dialled) && errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: no server listens there: is rke2-server running, and up? (journalctl -u rke2-server)", err)
	case errors.As(err, new(*net.OpError)):
		return fmt.Errorf("%w: the server cannot be reached", err)
	}
	return err
}
