package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/images"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/node"
)

// imagesFlags are the options of rke2 images.
type imagesFlags struct {
	node         hostNode
	role, output string
	missing      bool
}

func newImagesCommand() *cobra.Command {
	var f imagesFlags
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List the images that this node needs, and where each is",
		Long: `Lists the images that a node with this host's settings needs: what it runs itself (its
executables, the sandbox of every pod, the control plane, the job that installs charts),
what the packaged charts that a server deploys need with their own values, what the
bundles in <data-dir>/agent/images have, and what the lists there (*.txt, an image on each
line) ask to be pulled. Of each it says who needs it, its digest, which key
verified it, which bundle has it, and whether containerd has it.

States: present (whole in containerd; pinned means that the kubelet will not remove it),
staged (the node's executables, unpacked and unchanged), incomplete (containerd lost a
part; the node reads it again from its bundle), other (another image has its name),
absent, unknown (containerd could not be asked).

It works while the node runs and while it does not, and changes nothing. With --missing it
lists only what is nowhere on this host: not in containerd, not staged, and in no bundle
that may be used. Then exit code 0 means that nothing is missing, 1 that something is.`,
		Example: `  rke2 images

  # before the start, or after bundles were copied: is anything missing?
  rke2 images --missing

  # what is not pinned, for a script
  rke2 images -o json | jq -r '.images[] | select(.pinned | not) | .reference'

  # an agent's, with another data folder
  rke2 images --role agent --data-dir /srv/rke2`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	f.node.addFlags(flags)
	flags.StringVar(&f.role, "role", "", "what the node is: server or agent (default what it was last, or server)")
	flags.BoolVar(&f.missing, "missing", false, "list only what is nowhere on this host, and fail if there is any")
	flags.StringVarP(&f.output, "output", "o", "table", "`format`: table or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }
	return cmd
}

func (f imagesFlags) run(cmd *cobra.Command) error {
	role := config.Role(f.role)
	switch {
	case f.output != "table" && f.output != "json":
		return fmt.Errorf("--output %q is not known: use table or json", f.output)
	case role != "" && role != config.Server && role != config.Agent:
		return fmt.Errorf("--role %q is not known: use server or agent", f.role)
	}
	ctx, stop := bundleContext(cmd)
	defer stop()
	settings, err := f.settings(role)
	if err != nil {
		return err
	}
	inventory, err := node.TakeInventory(ctx, settings)
	if err != nil {
		return err
	}
	missing := inventory.Missing()
	if f.missing {
		var only []node.NodeImage
		for _, image := range inventory.Images {
			if image.Missing {
				only = append(only, image)
			}
		}
		inventory.Images = append([]node.NodeImage{}, only...)
	}
	if f.output == "json" {
		err = printJSON(cmd.OutOrStdout(), inventory)
	} else {
		err = printInventory(cmd.OutOrStdout(), inventory, f.missing)
	}
	if err != nil {
		return err
	}
	if f.missing && missing > 0 {
		return fmt.Errorf("%s missing on this host", are(missing, "image"))
	}
	return nil
}

func are(n int, thing string) string {
	if n == 1 {
		return count(n, thing) + " is"
	}
	return count(n, thing) + " are"
}

// settings are the node's, from its configuration file and environment.
func (f imagesFlags) settings(role config.Role) (config.Config, error) {
	release, err := images.EmbeddedRelease()
	if err != nil {
		return config.Config{}, err
	}
	if role == "" {
		if role, err = f.node.lastRole(); err != nil {
			return config.Config{}, err
		}
	}
	c, err := f.node.settings(role, release)
	if err != nil {
		return config.Config{}, fmt.Errorf("reading the node's settings: %w", err)
	}
	return c, nil
}

func printInventory(w io.Writer, inventory node.Inventory, onlyMissing bool) error {
	if len(inventory.Images) > 0 {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "IMAGE\tNEEDED BY\tDIGEST\tVERIFIED BY\tBUNDLE\tSTATE")
		for _, image := range inventory.Images {
			bundle := ""
			if image.Bundle != "" {
				bundle = filepath.Base(image.Bundle)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", image.Reference, strings.Join(image.Why, ", "), dash(shortDigest(image.Digest)),
				dash(trustedBy(image)), dash(bundle), stateText(image))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, image := range inventory.Images {
		if image.Fault != "" {
			fmt.Fprintf(w, "\nFAULT  %s: %s\n", image.Reference, image.Fault)
		}
	}
	for _, fault := range inventory.Faults {
		fmt.Fprintf(w, "\nFAULT  %s\n", fault)
	}
	if len(inventory.Images) > 0 {
		fmt.Fprintln(w)
	}
	there, missing := 0, inventory.Missing()
	for _, image := range inventory.Images {
		if image.State == node.Present || image.State == node.Staged {
			there++
		}
	}
	switch {
	case onlyMissing && missing == 0:
		fmt.Fprintf(w, "nothing is missing; containerd: %s\n", inventory.Containerd)
	case onlyMissing:
		fmt.Fprintf(w, "to do: copy the bundles that have them into %s", inventory.Folder)
		if !inventory.Offline {
			fmt.Fprint(w, ", or let the node pull them")
		}
		fmt.Fprintln(w)
	default:
		fmt.Fprintf(w, "%s for this %s: %d here, %d in bundles only, %d nowhere; containerd: %s\n",
			count(len(inventory.Images), "image"), inventory.Role, there, len(inventory.Images)-there-missing, missing, inventory.Containerd)
	}
	return nil
}

func trustedBy(image node.NodeImage) string {
	switch {
	case image.Fault != "":
		return "REFUSED"
	case image.Trusted == "not required":
		return "nobody (not required)"
	}
	return image.Trusted
}

func stateText(image node.NodeImage) string {
	text := string(image.State)
	switch {
	case image.Missing:
		text = "MISSING"
	case image.State == node.Present && image.Pinned:
		text += ", pinned"
	}
	return text
}
