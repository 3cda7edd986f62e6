package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
)

// listed is one line of rke2 bundle list.
type listed struct {
	Kind     string `json:"kind"` // image, chart or file
	Ref      string `json:"ref"`
	Path     string `json:"path,omitempty"` // of a file in the set Ref
	Digest   string `json:"digest,omitempty"`
	Platform string `json:"platform,omitempty"`
	Size     int64  `json:"size,omitempty"` // of a file, bytes
	Bundle   string `json:"bundle"`
}

// line is what text output says of it: a reference, as other tools take it.
func (l listed) line() string {
	switch l.Kind {
	case "chart":
		return "oci://" + l.Ref
	case "file":
		return l.Ref + "/" + plain(l.Path)
	}
	return l.Ref
}

func newBundleListCommand() *cobra.Command {
	var output string
	only := map[string]*bool{"image": new(bool), "chart": new(bool), "file": new(bool)}
	cmd := &cobra.Command{
		Use:   "list BUNDLE...",
		Short: "List the references in bundles, one a line",
		Long: `Lists what is in image archives, one a line: images by their references, charts as
oci://REFERENCE, plain files as SET/PATH. Only the head of a bundle is read.`,
		Example: `  rke2 bundle list rke2-images-core.linux-amd64.tar

  # which of the wanted images are in none of the bundles?
  rke2 bundle list --images /var/lib/rancher/rke2/agent/images/*.tar* | sort | comm -13 - wanted.txt`,
		Args: cobra.MinimumNArgs(1),
	}
	check := outputFlag(cmd, &output)
	cmd.Flags().BoolVar(only["image"], "images", false, "list images")
	cmd.Flags().BoolVar(only["chart"], "charts", false, "list charts")
	cmd.Flags().BoolVar(only["file"], "files", false, "list plain files")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := check(); err != nil {
			return err
		}
		some := *only["image"] || *only["chart"] || *only["file"]
		all := []listed{}
		err := eachArchive(files, func(a *airgap.Archive) error {
			found, err := listArchive(a)
			for _, l := range found {
				if !some || *only[l.Kind] {
					all = append(all, l)
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), all)
		}
		printList(cmd.OutOrStdout(), all)
		return nil
	}
	return cmd
}

// printList prints each line once: several platforms of an image are one reference.
func printList(w io.Writer, all []listed) {
	seen := map[string]bool{}
	for _, l := range all {
		if line := l.line(); !seen[line] {
			seen[line] = true
			fmt.Fprintln(w, line)
		}
	}
}

func listArchive(a *airgap.Archive) ([]listed, error) {
	var out []listed
	for _, img := range a.Images() {
		one := listed{Kind: "image", Bundle: a.Path()}
		if img.Desc.Digest.Hex != "" {
			one.Digest = img.Desc.Digest.String()
		}
		if img.Platform != nil {
			one.Platform = img.Platform.String()
		}
		for _, n := range img.Names() {
			one.Ref = n
			out = append(out, one)
		}
	}
	for _, art := range a.Artifacts() {
		one := listed{Kind: "chart", Ref: art.Ref, Digest: art.Desc.Digest.String(), Bundle: a.Path()}
		if art.Kind != airgap.KindFiles {
			out = append(out, one)
			continue
		}
		m, _, err := a.Manifest(art.Desc.Digest)
		if err != nil {
			return nil, err
		}
		for _, l := range m.Layers {
			one.Kind, one.Path, one.Digest, one.Size = "file", l.Annotations[airgap.AnnotationTitle], l.Digest.String(), l.Size
			out = append(out, one)
		}
	}
	return out, nil
}
