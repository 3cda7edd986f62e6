package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/build/artifact"
	"github.com/rancher/rke2/build/layout"
	"github.com/rancher/rke2/build/provenance"
	"github.com/rancher/rke2/build/sbom"
	"github.com/rancher/rke2/build/sign"
	"github.com/rancher/rke2/build/statement"
	"github.com/rancher/rke2/images"
)

// statementKinds are what is stated of each platform's manifest, in the order in which
// attestations have them: folder and ending of the files beside the layout.
var statementKinds = []struct{ folder, ending string }{
	{"sbom", ".spdx.json"},
	{"provenance", ".json"},
}

// SBOM is the file with the software bill of materials of an image.
func (p *Pipeline) SBOM(image string, platform artifact.Platform) string {
	return p.statementFile(0, image, platform)
}

func (p *Pipeline) statementFile(kind int, image string, platform artifact.Platform) string {
	k := statementKinds[kind]
	return filepath.Join(p.s.Out, k.folder, image+"."+platform.OS+"-"+platform.Arch+k.ending)
}

// describe writes down what a piece is and what it was made from, as in-toto statements
// about its manifest.
func (p *Pipeline) describe(x *piece, tag name.Tag) error {
	var materials []artifact.Material
	var compilers []string
	for _, a := range x.parts {
		materials = append(materials, a.Materials...)
		if a.Compiler != "" {
			compilers = append(compilers, a.Compiler)
		}
	}
	slices.Sort(compilers)
	materials = artifact.SortMaterials(materials)
	repository := p.s.Naming.Registry + "/" + p.s.Naming.Repo + "/" + x.image.Name
	digest := x.made.Descriptor.Digest.String()
	bill, err := sbom.Statement(sbom.Input{
		Name: repository, Tag: tag.TagStr(), Digest: digest, Platform: x.platform, Files: x.made.Files,
		Materials: materials, Product: p.s.Tree.Product.Version, Epoch: p.s.Epoch, Cache: p.s.Cache,
	})
	if err != nil {
		return fmt.Errorf("writing its SBOM: %w", err)
	}
	sources, err := p.sources(x)
	if err != nil {
		return err
	}
	in := provenance.Input{
		Name: repository, Tag: tag.TagStr(), Digest: digest, Platform: x.platform,
		Product: p.s.Tree.Product.Version, Epoch: p.s.Epoch, Go: p.compiler.GoVersion(), FIPS140: p.s.Tree.Product.FIPS140,
		Compilers:  slices.Compact(compilers),
		Assembly:   p.builder.Name(),
		Components: p.needs(x), Sources: sources, Files: x.made.Files, Materials: materials, Cache: p.s.Cache,
	}
	if x.image.Upstream != "" {
		in.Assembly = "copy"
	}
	if !slices.ContainsFunc(in.Components, func(c images.Component) bool { return c.Kind == images.KindGo }) {
		in.Go, in.FIPS140 = "", ""
	}
	origin, err := provenance.Statement(in)
	if err != nil {
		return fmt.Errorf("writing its provenance: %w", err)
	}
	for i, data := range [][]byte{bill, origin} {
		file := p.statementFile(i, x.image.Name, x.platform)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("writing what is known of it: %w", err)
		}
		if err := layout.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sources are the files of the project that decide what is in a piece.
func (p *Pipeline) sources(x *piece) ([]provenance.Source, error) {
	root := filepath.Dir(p.s.Tree.Dir)
	paths := []string{filepath.Join(p.s.Tree.Dir, "product.yaml")}
	if x.image.Dockerfile != "" {
		paths = append(paths, x.image.Dockerfile)
	}
	if c, ok := p.s.Tree.Component(x.image.Owner); ok {
		paths = append(paths, c.Dir)
	}
	for _, c := range p.needs(x) {
		paths = append(paths, sourcesOf(c)...)
	}
	slices.Sort(paths)
	return provenance.Sources(root, slices.Compact(paths)...)
}

// sourcesOf are the folders and files that a component is declared by.
func sourcesOf(c images.Component) []string {
	if c.Kind != images.KindCharts {
		return []string{c.Dir}
	}
	var out []string
	for _, ch := range c.Charts {
		out = append(out, ch.Dir)
		// Hidden, but it decides what is packaged.
		if rules := filepath.Join(ch.Dir, ".helmignore"); exists(rules) {
			out = append(out, rules)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tidy removes statements about platforms that an image is no longer made for, and about
// images that are no longer declared.
func (p *Pipeline) tidy(entries map[string][]v1.Descriptor) error {
	keep := map[string]bool{}
	for image, platforms := range entries {
		for _, d := range platforms {
			if d.Platform == nil {
				continue
			}
			for kind := range statementKinds {
				keep[p.statementFile(kind, image, artifact.Platform{OS: d.Platform.OS, Arch: d.Platform.Architecture})] = true
			}
		}
	}
	for _, k := range statementKinds {
		found, err := filepath.Glob(filepath.Join(p.s.Out, k.folder, "*"+k.ending))
		if err != nil {
			return fmt.Errorf("tidying %s: %w", k.folder, err)
		}
		for _, file := range found {
			if keep[file] {
				continue
			}
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("tidying %s: %w", k.folder, err)
			}
		}
	}
	return nil
}

// attest attaches the statements about a platform's manifest, signed.
func (s *signer) attest(ctx context.Context, image string, m v1.Descriptor) error {
	if m.Platform == nil {
		return fmt.Errorf("the layout has no platform for manifest %s; run rke2-build image", m.Digest)
	}
	platform := artifact.Platform{OS: m.Platform.OS, Arch: m.Platform.Architecture}
	var statements [][]byte
	for kind := range statementKinds {
		file := s.p.statementFile(kind, image, platform)
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no %s; run rke2-build image %s", file, image)
		}
		if err != nil {
			return fmt.Errorf("attesting: %w", err)
		}
		st, err := statement.Decode(data)
		if err != nil {
			return fmt.Errorf("attesting %s: %w", file, err)
		}
		// What is signed must be about what is in the layout, whoever wrote it there.
		if len(st.Subject) != 1 || st.Subject[0].Digest["sha256"] != m.Digest.Hex {
			return fmt.Errorf("%s is about another image than %s; run rke2-build image %s", file, m.Digest, image)
		}
		statements = append(statements, data)
	}
	return s.attach(layout.KindAtts, m.Digest,
		func(manifest []byte) (bool, error) { return s.key.Attested(statements, manifest, s.l.Read) },
		func() (sign.Signature, error) { return s.key.Attest(ctx, statements) })
}
