package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/durable"
	"github.com/rancher/rke2/runtime/packaged"
	"github.com/rancher/rke2/runtime/stage"
)

// delivery puts the charts that this server deploys where the deploy controller looks.
type delivery struct {
	config config.Config
	folder string // server/manifests
	record string // what was delivered, also by earlier releases
	log    *slog.Logger
}

// deliverCharts puts the staged charts that this server deploys where the deploy
// controller looks, and gives those of them that are chosen and the names of those that it
// is to uninstall. Only servers have one; an agent is given what there is to choose from.
// What the operator put there stays, and a file that says the same as before is not written
// again: the controller would apply it anew.
// Charts that ask for the cluster's settings get them as values.
//
// The deploy controller uninstalls what a file deployed when it is told that the file's
// name is disabled, and then removes the file; so there must be one. A chart that is not
// chosen, or that an earlier release delivered and this one has not, keeps its file for
// that; where there is none, a comment stands in for it: the cluster may know the chart
// from another server or from the time before a snapshot was restored.
func deliverCharts(root stage.Root, c config.Config, log *slog.Logger) (packaged.Delivery, error) {
	if c.Role != config.Server {
		all, err := packaged.Read(root.Charts())
		return packaged.Delivery{Known: all}, err
	}
	d := delivery{config: c, folder: filepath.Join(c.DataDir, "server", "manifests"), record: filepath.Join(c.DataDir, "server", "packaged-charts.json"), log: log}
	out, err := d.deliver(root.Charts())
	if err != nil {
		return packaged.Delivery{}, fmt.Errorf("delivering charts: %w", err)
	}
	return out, nil
}

func (d delivery) deliver(staged string) (packaged.Delivery, error) {
	all, err := packaged.Read(staged)
	if err != nil {
		return packaged.Delivery{}, err
	}
	if err := os.MkdirAll(d.folder, 0o700); err != nil {
		return packaged.Delivery{}, err
	}
	there, err := d.there()
	if err != nil {
		return packaged.Delivery{}, err
	}
	selection, err := packaged.Select(all, d.config.Charts, there)
	if err != nil {
		return packaged.Delivery{}, err
	}
	for _, warning := range selection.Warnings {
		d.log.Warn(warning)
	}
	before, err := d.delivered()
	if err != nil {
		return packaged.Delivery{}, err
	}
	out := packaged.Delivery{Known: all, Chosen: selection.Chosen, Removed: slices.Concat(slices.Sorted(maps.Keys(selection.Off)), d.gone(all, before))}
	manifests, now, err := d.manifests(out, before)
	if err != nil {
		return packaged.Delivery{}, err
	}
	// The record comes first: what it names and is not there does no harm.
	if err := d.remember(now, before); err != nil {
		return packaged.Delivery{}, err
	}
	for _, name := range out.Removed {
		if err := d.standIn(name, there, selection.Off[name]); err != nil {
			return packaged.Delivery{}, err
		}
	}
	for i, c := range out.Chosen {
		changed, err := d.write(c.File, manifests[i])
		if err != nil {
			return packaged.Delivery{}, err
		}
		if changed {
			out.Changed = append(out.Changed, c.Name)
		}
	}
	return out, nil
}

// gone are the names of manifests that an earlier release brought, this one has not, and
// nobody has changed since.
func (d delivery) gone(all []packaged.Chart, before map[string]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if slices.ContainsFunc(all, func(c packaged.Chart) bool { return c.Name == name }) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(d.folder, name+".yaml"))
		if err != nil || digest(raw) != before[name] {
			continue
		}
		out = append(out, name)
		d.log.Info("a chart that an earlier release brought is uninstalled: this release has it no more", "chart", name)
	}
	return out
}

// manifests are those of the chosen charts with the cluster's values in them, and the
// record that they make.
func (d delivery) manifests(out packaged.Delivery, before map[string]string) (manifests [][]byte, record map[string]string, err error) {
	record = map[string]string{}
	for _, name := range out.Removed {
		if sum := before[name]; sum != "" {
			record[name] = sum
		}
	}
	values := d.config.Cluster.Values(d.config.DataDir, d.config.SystemDefaultRegistry)
	for _, c := range out.Chosen {
		manifest, err := inject(c.Manifest, values)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", c.File, err)
		}
		manifests, record[c.Name] = append(manifests, manifest), digest(manifest)
	}
	return manifests, record, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// there are the names of the manifests in the folder, whoever put them there.
func (d delivery) there() ([]string, error) {
	entries, err := os.ReadDir(d.folder)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, entry := range entries {
		out = append(out, strings.TrimSuffix(entry.Name(), filepath.Ext(entry.Name())))
	}
	return out, nil
}

// delivered reads the record: the digests of manifests by name. One that cannot be read
// is none: what it named is still uninstalled where this release has a chart of the name.
func (d delivery) delivered() (map[string]string, error) {
	raw, err := os.ReadFile(d.record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	record := map[string]string{}
	if err := json.Unmarshal(raw, &record); err != nil {
		d.log.Warn("which charts earlier releases brought is not known", "file", d.record, "error", err)
		return nil, nil
	}
	return record, nil
}

func (d delivery) remember(now, before map[string]string) error {
	if maps.Equal(now, before) {
		return nil
	}
	raw, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(d.record, append(raw, '\n'), 0o600)
}

// standIn makes sure that a manifest that is to be taken back has a file. The comment is
// harmless where anybody applies it, and needs no fsync: half of it says the same.
func (d delivery) standIn(name string, there []string, why string) error {
	if slices.Contains(there, name) {
		d.log.Info("a packaged chart is uninstalled if it was installed", "chart", name, "reason", why)
		return nil
	}
	text := "# " + name + " is not deployed: " + why + "\n"
	return os.WriteFile(filepath.Join(d.folder, name+".yaml"), []byte(text), 0o600)
}

// write delivers a manifest, and tells whether it is another than before.
func (d delivery) write(file string, manifest []byte) (changed bool, err error) {
	path := filepath.Join(d.folder, file)
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, manifest) {
		return false, nil
	}
	return true, durable.WriteFile(path, manifest, 0o600)
}
