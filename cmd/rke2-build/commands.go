package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rancher/rke2/build/compile"
	"github.com/rancher/rke2/build/pipeline"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/images"
)

func newList(f *flags) *cobra.Command {
	newer := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the components and charts: version, module, binaries, size, crypto",
		Long: `Shows every declared component. Size and crypto are those of the binaries in the
build cache; a component that isn't built with the present inputs has none. Then the
charts that are packaged into the runtime image, when a server installs them, and the
images that they run.

--outdated shows instead what there are newer versions of: it asks the go command's
module proxy for what wrapper modules require, and the Debian archive and registries for
what locks pin.`,
		Example: "  rke2-build list\n  rke2-build list -o json | jq '.[].version'\n  rke2-build list --outdated",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if newer {
				return f.listOutdated(cmd, asJSON)
			}
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			listed, err := p.List(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, rows(listed))
			}
			return printTable(cmd, listed)
		},
	}
	cmd.Flags().BoolVar(&newer, "outdated", false, "show what there are newer versions of")
	outputFlag(cmd, f)
	return cmd
}

// row is a component in list's JSON form.
type row struct {
	Component   string           `json:"component"`
	Description string           `json:"description"`
	Kind        images.Kind      `json:"kind"`
	Version     string           `json:"version"`
	From        string           `json:"from"` // module, Debian packages or upstream image
	Platform    string           `json:"platform"`
	Built       bool             `json:"built"`  // of Go modules: all binaries are in the cache
	Crypto      string           `json:"crypto"` // of the binaries, or as declared
	CryptoWhy   string           `json:"cryptoReason,omitempty"`
	Size        int64            `json:"size"` // bytes, 0 if not built
	Binaries    []string         `json:"binaries"`
	Images      []string         `json:"images"`
	Artifacts   []compile.Binary `json:"artifacts,omitempty"`
	Charts      []chartRow       `json:"charts,omitempty"`
}

func rows(listed []pipeline.Listed) []row {
	out := []row{}
	for _, l := range listed {
		c := l.Component
		r := row{
			Component: c.Name, Description: c.Description, Kind: c.Kind, Version: c.Version, From: from(c), Platform: l.Platform.String(),
			Built: l.Built, Crypto: string(c.Crypto), CryptoWhy: c.CryptoReason, Binaries: []string{}, Images: append([]string{}, l.Images...),
			Charts: chartRows(c.Charts),
		}
		for _, b := range c.Binaries {
			r.Binaries = append(r.Binaries, b.Name)
		}
		if l.Built {
			r.Artifacts = l.Artifact.Binaries
			r.Crypto = l.Artifact.Binaries[0].Crypto
			for _, b := range l.Artifact.Binaries {
				r.Size += b.Size
			}
		}
		out = append(out, r)
	}
	return out
}

// from says in one line what a component is made from.
func from(c images.Component) string {
	switch c.Kind {
	case images.KindDebian:
		return fmt.Sprintf("%d Debian packages", len(c.Debian.Packages))
	case images.KindSource:
		return "Debian source: " + c.Source.Package
	case images.KindUpstream:
		return c.Upstream.Image
	case images.KindCharts:
		return fmt.Sprintf("%d charts", len(c.Charts))
	}
	return c.Module
}

func printTable(cmd *cobra.Command, listed []pipeline.Listed) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tVERSION\tFROM\tBINARIES\tSIZE\tCRYPTO\tIMAGES")
	for _, r := range rows(listed) {
		component, crypto, in := r.Component+"\t"+r.Version+"\t"+r.From, r.Crypto, strings.Join(r.Images, " ")
		if !r.Built && r.Kind == images.KindGo {
			crypto = "(" + crypto + ")"
		}
		if len(r.Binaries) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t%s\t%s\n", component, crypto, in)
		}
		for i, b := range r.Binaries {
			mb := "-"
			switch {
			case r.Built:
				mb = size(r.Artifacts[i].Size)
			case r.Kind == images.KindGo:
				mb = "not built"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", component, b, mb, crypto, in)
			component, crypto, in = "\t\t", "", ""
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range listed {
		if err := printCharts(cmd, chartRows(l.Component.Charts)); err != nil {
			return err
		}
	}
	return nil
}

func newCompile(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compile [COMPONENT…]",
		Short: "Compile components (none named: all)",
		Long: `Compiles components into the build cache and checks the result: static, built with the
declared cryptography. What is there for the same inputs is not built again. Where each
binary is goes to standard output.`,
		Example:           "  rke2-build compile\n  rke2-build compile runc etcd",
		ValidArgsFunction: f.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			components, err := p.Components(args)
			if err != nil {
				return usageError{err}
			}
			made, err := p.Make(cmd.Context(), components)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, madeRows(made))
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, a := range madeRows(made) {
				if len(a.Binaries) == 0 {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d files\n", a.Component, a.Platform, size(a.Size), a.Files)
				}
				for _, b := range a.Binaries {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.Name, a.Platform, size(b.Size), dash(b.Crypto), b.Path)
				}
			}
			return w.Flush()
		},
	}
	outputFlag(cmd, f)
	return cmd
}

// madeRow is a component in compile's JSON form.
type madeRow struct {
	Component string           `json:"component"`
	Version   string           `json:"version"`
	Platform  string           `json:"platform"`
	Cached    bool             `json:"cached"`
	Elapsed   time.Duration    `json:"elapsed"` // nanoseconds
	Size      int64            `json:"size"`    // bytes
	Files     int              `json:"files"`
	Binaries  []compile.Binary `json:"binaries"`
}

func madeRows(made []pipeline.Made) []madeRow {
	out := []madeRow{}
	for _, m := range made {
		r := madeRow{
			Component: m.Component, Version: m.Version, Platform: m.Platform.String(), Cached: m.Cached,
			Elapsed: m.Elapsed, Size: m.Size, Binaries: append([]compile.Binary{}, m.Binaries...),
		}
		for _, files := range m.Contexts {
			r.Files += len(files)
		}
		out = append(out, r)
	}
	return out
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newImage(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image [IMAGE…]",
		Short: "Make images in the OCI layout (none named: all)",
		Long: `Compiles what the images need, makes their layers and puts the images into the OCI
layout oci/ in the products' folder. The layout's index is replaced last.`,
		Example:           "  rke2-build image\n  rke2-build image hardened-etcd -o json",
		ValidArgsFunction: f.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			if err := p.CheckImages(args); err != nil {
				return usageError{err}
			}
			built, err := p.Images(cmd.Context(), args)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, built)
			}
			return printBuilt(cmd, built)
		},
	}
	outputFlag(cmd, f)
	return cmd
}

func printBuilt(cmd *cobra.Command, built []pipeline.Built) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tPLATFORM\tSIZE\tLAYERS\tDIGEST")
	for _, b := range built {
		for _, p := range b.Platforms {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", b.Reference, p.Platform, size(p.Size), p.Layers, p.Digest)
		}
	}
	return w.Flush()
}

func newSign(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign the images of the OCI layout by digest",
		Long: `Signs every image of the layout, as cosign does, and writes the key's public half to
cosign.pub in the products' folder. A signature that the same key made for the same
digest is kept. With a key file signatures are reproducible.`,
		Example: "  rke2-build sign\n  COSIGN_PASSWORD=… rke2-build sign --key release.key\n  rke2-build sign --key hashivault://release",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			key, err := f.signingKey(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			_, err = p.Sign(cmd.Context(), key)
			return err
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func newRelease(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Write down what the release consists of",
		Long: `Writes release.json (images, digests, public key), cosign.pub, and overlay.json, with
which go build puts release.json into the node binary. Every declared image must be in
the layout and signed by the key.`,
		Example: "  rke2-build release\n  go build -overlay dist/overlay.json ./cmd/rke2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			key, err := f.signingKey(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			r, err := p.Release(key)
			if err != nil {
				return err
			}
			return printJSON(cmd, r)
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func newAll(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "all",
		Short:   "Make all images, sign them and write down the release",
		Long:    "Does image, sign and release in one go.",
		Example: "  rke2-build all\n  REGISTRY=registry.example.com REPO=rke2 rke2-build all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p, err := f.pipeline(cmd)
			if err != nil {
				return err
			}
			// Before the long part: a wrong passphrase should not be found after it.
			key, err := f.signingKey(ctx, cmd)
			if err != nil {
				return err
			}
			built, err := p.Images(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := p.Sign(ctx, key); err != nil {
				return err
			}
			if _, err := p.Release(key); err != nil {
				return err
			}
			return printBuilt(cmd, built)
		},
	}
	keyFlag(cmd, f)
	return cmd
}

func newKeygen() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [NAME]",
		Short: "Make a signing key pair: NAME.key and NAME.pub (default: cosign)",
		Long: `Makes an ECDSA P-256 key pair. The private half is in cosign's encrypted format, under
the passphrase in COSIGN_PASSWORD, or one that is asked for. Existing files are not
touched.`,
		Example: "  rke2-build keygen release",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "cosign"
			if len(args) > 0 {
				name = args[0]
			}
			pass, err := passphrase(cmd, true)
			if err != nil {
				return err
			}
			if err := sign.Generate(name+".key", name+".pub", pass); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s.key\n%s.pub\n", name, name)
			return nil
		},
	}
}

// passphrase is $COSIGN_PASSWORD, also if it is empty, or asked for on a terminal.
func passphrase(cmd *cobra.Command, twice bool) ([]byte, error) {
	if p, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
		return []byte(p), nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, errors.New("the signing key's passphrase is not known: set COSIGN_PASSWORD (empty for none)")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Passphrase of the signing key: ")
	p, err := term.ReadPassword(fd)
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	if twice {
		fmt.Fprint(cmd.ErrOrStderr(), "Again: ")
		again, err := term.ReadPassword(fd)
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
		if !bytes.Equal(p, again) {
			return nil, errors.New("the passphrases differ")
		}
	}
	return p, nil
}

func (f *flags) completeComponents(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if t, err := f.tree(); err == nil {
		for _, c := range t.Components {
			if strings.HasPrefix(c.Name, prefix) {
				out = append(out, c.Name+"\t"+c.Description)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (f *flags) completeImages(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	if t, err := f.tree(); err == nil {
		for _, i := range t.Images {
			if strings.HasPrefix(i.Name, prefix) {
				out = append(out, i.Name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}
