package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/rancher/rke2/airgap"
)

// branch is a line of a tree, and the lines below it.
type branch struct {
	text  string
	below []branch
}

func (b branch) print(w io.Writer, indent string) {
	for i, child := range b.below {
		tee, rest := "├─ ", "│  "
		if i == len(b.below)-1 {
			tee, rest = "└─ ", "   "
		}
		fmt.Fprintf(w, "%s%s%s\n", indent, tee, child.text)
		child.print(w, indent+rest)
	}
}

// printTree shows what an archive holds, and what belongs to what.
func printTree(w io.Writer, ins airgap.Inspection) {
	fmt.Fprintln(w, headline(ins))
	var root branch
	for _, img := range ins.Images {
		root.below = append(root.below, imageBranch(img))
	}
	for _, art := range ins.Artifacts {
		b := branch{text: fmt.Sprintf("%s  %s  %s  %s", art.Ref, art.Kind, humanBytes(art.Size), shortDigest(art.Digest))}
		for _, f := range art.Files {
			b.below = append(b.below, branch{text: fmt.Sprintf("file  %s  %s  %s", plain(f.Path), humanBytes(f.Size), shortDigest(f.Digest))})
		}
		b.below = append(b.below, branch{text: "signature  " + signatureText(art.Signature)})
		root.below = append(root.below, b)
	}
	root.print(w, "")
	printTotals(w, ins)
	printDoubts(w, ins)
}

func imageBranch(img airgap.ImageInfo) branch {
	id := img.Digest
	if id == "" {
		id = "id " + img.ID
	}
	b := branch{text: fmt.Sprintf("%s  %s  %s  %s", strings.Join(img.Names, ", "), dash(img.Platform), humanBytes(img.Size), id)}
	for _, l := range img.Layers {
		text := fmt.Sprintf("layer  %s  %9s", shortDigest(layerName(l)), humanBytes(l.Size))
		if l.Images > 1 {
			text += fmt.Sprintf("  in %d images", l.Images)
		}
		if l.Absent {
			text += "  not here"
		}
		if made := strings.Join(strings.Fields(l.CreatedBy), " "); made != "" {
			const most = 80
			if len(made) > most {
				made = made[:most] + "…"
			}
			text += "  " + plain(made)
		}
		b.below = append(b.below, branch{text: text})
	}
	b.below = append(b.below, branch{text: "signature  " + signatureText(img.Signature)})
	for _, att := range img.Attestations {
		one := attestationText([]airgap.AttestationInfo{att})
		if att.Verified {
			one += "  " + att.Key
		}
		b.below = append(b.below, branch{text: fmt.Sprintf("attestation  %s  %s", one, humanBytes(att.Size))})
	}
	return b
}
