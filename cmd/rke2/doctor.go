package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/closure"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/doctor"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/node"
	"github.com/rancher/rke2/runtime/preflight"
	"github.com/rancher/rke2/runtime/scan"
)

// doctorFlags are the options of rke2 doctor.
type doctorFlags struct {
	node         hostNode
	role, output string
	dial, strict bool
	patience     time.Duration
}

func newDoctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that a node on this host depends on, and say what to do",
		Long: `Looks at this host as a node would that starts on it with the same settings (the
configuration file, its folder NAME.d and RKE2_* variables), and says what is there, what
that means and what to do: trust and bundles, the images that the node needs and which
bundle has each, staged executables, disk space, ports and who has them, kernel, cgroups,
capabilities, addresses and routes, the clock and the node's certificates, limits,
firewalls, and where registries.yaml would have images pulled from, endpoint by endpoint.

Nothing is changed, and nobody is dialled unless --dial is given. It may run beside a node
that runs. The rke2 of another release, run so on a node before an upgrade, tells whether
the bundles in place hold all that the other release needs.

What is a fault here is what rke2 server and rke2 agent refuse to start with, in the same
words, or what would keep them from getting far. Exit code 0: no fault; 1: a fault. With
--strict warnings count as faults.`,
		Example: `  # will a server start on this host?
  rke2 doctor

  # before an upgrade: the new release's rke2, with the node's settings and bundles
  ./rke2 doctor

  # an agent; ask the registries and the server whether they answer, 3 seconds each
  rke2 doctor --role agent --dial --timeout 3s

  # what is wrong, for a script
  rke2 doctor -o json | jq -r '.checks[] | select(.verdict != "ok") | .name + ": " + .found'`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	f.node.addFlags(flags)
	flags.StringVar(&f.role, "role", string(config.Server), "what the node is to be: server or agent")
	flags.BoolVar(&f.dial, "dial", false, "ask the registries and the server to join")
	flags.DurationVar(&f.patience, "timeout", 5*time.Second, "how long each that is dialled may take")
	flags.BoolVar(&f.strict, "strict", false, "let warnings fail, too")
	flags.StringVarP(&f.output, "output", "o", "table", "`format`: table or json")
	for name, values := range map[string][]string{"role": {string(config.Server), string(config.Agent)}, "output": {"table", "json"}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // they were declared above
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }
	return cmd
}

func (f doctorFlags) run(cmd *cobra.Command) error {
	role := config.Role(f.role)
	switch {
	case f.output != "table" && f.output != "json":
		return fmt.Errorf("--output %q is not known: use table or json", f.output)
	case role != config.Server && role != config.Agent:
		return fmt.Errorf("--role %q is not known: use server or agent", f.role)
	case f.patience <= 0:
		return fmt.Errorf("--timeout %s: it must be more than nothing", f.patience)
	}
	ctx, stop := bundleContext(cmd)
	defer stop()
	options, closeAll, err := f.options(role)
	if err != nil {
		return err
	}
	defer closeAll()
	report := doctor.Examine(ctx, options)
	if f.output == "json" {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printReport(cmd.OutOrStdout(), report)
	}
	if err != nil {
		return err
	}
	faults, warnings := report.Count(preflight.Fail), report.Count(preflight.Warn)
	switch {
	case faults > 0:
		return fmt.Errorf("%s: this host will not do as it is", count(faults, "fault"))
	case warnings > 0 && f.strict:
		return fmt.Errorf("%s, and --strict was given", count(warnings, "warning"))
	}
	return nil
}

// options gathers what is to be looked at, as far as it can be read.
func (f doctorFlags) options(role config.Role) (doctor.Options, func(), error) {
	o := doctor.Options{Dial: f.dial, Patience: f.patience, ConfigFile: f.node.configFile()}
	release, err := images.EmbeddedRelease()
	if err != nil {
		return o, nil, err
	}
	c, err := f.node.settings(role, release)
	if err != nil {
		o.SettingsFault = err
		c = config.Config{Role: role, DataDir: config.DefaultDataDir, Verification: trust.ModeSystem,
			TrustDir: defaultOf("trust-dir"), PrivateRegistry: defaultOf("private-registry"), Release: release}
		if f.node.dataDir != "" {
			if c.DataDir, err = filepath.Abs(f.node.dataDir); err != nil {
				return o, nil, err
			}
		}
	}
	policy, err := node.Policy(c)
	o.Policy, o.PolicyFault = policy, err
	folder, err := scan.Open(c.ImagesDir())
	if err != nil {
		o.FolderFault, folder = err, &scan.Folder{Dir: c.ImagesDir()}
	}
	o.Input = node.Look(host.This(), c, policy, folder)
	charts, err := closure.ReadSettings(o.ConfigFile, closure.Defaults(defaultOf("cni")))
	switch {
	case err == nil:
		o.Charts = &charts
	case errors.Is(err, fs.ErrNotExist):
		charts = closure.Defaults(defaultOf("cni"))
		o.Charts = &charts
	}
	return o, func() { _ = folder.Close() }, nil
}

// short is what was found in one line; what is not ok is told in full below the table.
func short(c preflight.Check) string {
	const most = 120
	first, _, _ := strings.Cut(c.Found, "\n")
	if r := []rune(first); c.Verdict != preflight.OK && len(r) > most {
		return string(r[:most]) + "…"
	}
	return first
}

func printReport(w io.Writer, r doctor.Report) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "CHECK\tRESULT\tFOUND")
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, strings.ToUpper(string(c.Verdict)), short(c))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range []preflight.Verdict{preflight.Warn, preflight.Fail} {
		for _, c := range r.Checks {
			if c.Verdict == v {
				fmt.Fprintf(w, "\n%s  %s\n", strings.ToUpper(string(v)), c)
			}
		}
	}
	if len(r.Registries) > 0 {
		fmt.Fprintln(w, "\nWhat no bundle has would be asked of, in this order:")
	}
	for _, p := range r.Registries {
		fmt.Fprintf(w, "  %s\n", p.Image)
		for i, e := range p.Endpoints {
			fmt.Fprintf(w, "    %d. %s\n", i+1, e)
		}
	}
	fmt.Fprintf(w, "\n%s (role %s, data folder %s): %d ok, %s, %s\n", count(len(r.Checks), "check"), r.Role, r.DataDir,
		r.Count(preflight.OK), count(r.Count(preflight.Warn), "warning"), count(r.Count(preflight.Fail), "fault"))
	return nil
}
