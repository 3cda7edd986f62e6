package push

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/rancher/rke2/airgap/publish"
	"github.com/rancher/rke2/airgap/registry"
)

// Print writes a table of what was pushed.
func Print(out io.Writer, res publish.Result) error {
	if len(res.Images) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tSTATE\tSENT\tBLOBS SENT/MOUNTED/PRESENT\tSIGNATURES\tATTESTATIONS\tDIGEST")
	for _, i := range res.Images {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d/%d\t%d\t%d\t%s\n", i.Reference, state(i, res.DryRun), size(i.Sent),
			i.Blobs.Sent, i.Blobs.Mounted, i.Blobs.Present, i.Signatures, i.Attestations, i.Digest)
	}
	return w.Flush()
}

func state(i publish.Published, dryRun bool) string {
	switch {
	case i.Outcome == registry.Present:
		return "present"
	case dryRun && i.Replaced != "":
		return "would replace"
	case dryRun:
		return "would push"
	case i.Replaced != "":
		return "replaced"
	}
	return "pushed"
}

// size prints a size in decimal units, as disks are sold.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}
