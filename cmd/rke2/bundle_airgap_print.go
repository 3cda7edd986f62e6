package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/collect"
)

// airgapResult is what bundle airgap prints as JSON.
type airgapResult struct {
	Bundles []airgap.Created `json:"bundles"`
	// Images that came from registries, with what their references mean.
	Images []collect.Found      `json:"images,omitempty"`
	Charts []collect.FoundChart `json:"charts,omitempty"`
	// Lock is the file that was written, LockChanges what differs from the one before.
	Lock        string   `json:"lock,omitempty"`
	LockChanges []string `json:"lockChanges,omitempty"`
}

func printMade(cmd *cobra.Command, output string, r airgapResult) error {
	w := cmd.OutOrStdout()
	if output == "json" {
		return printJSON(w, r)
	}
	for _, i := range r.Images {
		fmt.Fprintf(w, "%s  %s%s\n", i.Image, i.Digest, attachedTo(i))
	}
	for _, c := range r.Charts {
		fmt.Fprintf(w, "%s  %s %s  %s  %s\n", c.Chart, c.Name, c.Version, c.Digest, count(len(c.Images), "image"))
		for _, p := range c.Possible {
			fmt.Fprintf(w, "  perhaps needed, not taken: %s\n", p)
		}
	}
	if r.Lock != "" {
		fmt.Fprintf(w, "%s  written\n", r.Lock)
	}
	for _, c := range r.LockChanges {
		fmt.Fprintf(w, "  %s\n", c)
	}
	for _, c := range r.Bundles {
		printBundle(cmd, c)
	}
	return nil
}

func printBundle(cmd *cobra.Command, c airgap.Created) {
	w := cmd.OutOrStdout()
	holds := count(len(c.Images), "image")
	if n := len(c.Artifacts); n > 0 {
		holds += ", " + count(n, "artifact")
	}
	state := func(kept bool) string {
		if kept {
			return "  (unchanged)"
		}
		return ""
	}
	if len(c.Parts) > 0 {
		fmt.Fprintf(w, "%s  %s  %s in %s\n", c.File, humanBytes(c.Size), holds, count(len(c.Parts), "part"))
		for _, p := range c.Parts {
			fmt.Fprintf(w, "  %s  %s  sha256:%s%s\n", p.File, humanBytes(p.Size), p.SHA256, state(p.Kept))
		}
	} else {
		fmt.Fprintf(w, "%s  %s  %s  sha256:%s%s\n", c.File, humanBytes(c.Size), holds, c.SHA256, state(c.Kept))
	}
	if len(c.Unsigned) > 0 {
		fmt.Fprintf(w, "  %s without a signature: %s\n", count(len(c.Unsigned), "image"), strings.Join(c.Unsigned, ", "))
	}
}

// attachedTo says what came along with an image.
func attachedTo(i collect.Found) string {
	var parts []string
	if i.Signatures > 0 {
		parts = append(parts, "signed")
	}
	if i.Statements > 0 {
		parts = append(parts, "attested")
	}
	if i.Referrers > 0 {
		parts = append(parts, count(i.Referrers, "referrer"))
	}
	if len(parts) == 0 {
		return ""
	}
	return "  " + strings.Join(parts, ", ")
}
