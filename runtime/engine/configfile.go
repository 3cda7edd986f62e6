package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rancher/rke2/images/yamlfile"
)

// configDefault is read if it is there; a file that was named must be.
const configDefault = "/etc/rancher/rke2/config.yaml"

// vocabulary is what a configuration file may say.
type vocabulary struct {
	options   map[string]bool // name or one-letter alias: takes no value
	elsewhere map[string]bool // options of other commands, which share the file
	lists     map[string]bool // options that may be repeated
	variables map[string]bool // of the environment
}

// configFile finds the file: an argument names it, else RKE2_CONFIG_FILE.
func configFile(args []string) (path string, named bool) {
	for i, arg := range args {
		for _, flag := range []string{"--config", "-c"} {
			if value, ok := strings.CutPrefix(arg, flag+"="); ok {
				return value, true
			}
			if arg == flag && i+1 < len(args) {
				return args[i+1], true
			}
		}
	}
	if value := os.Getenv("RKE2_CONFIG_FILE"); value != "" {
		return value, true
	}
	return configDefault, false
}

// readConfig gives the options in a configuration file, and in the *.yaml of the
// folder FILE.d in name order, as arguments. A later file's value stands in for an
// earlier one's; a key that ends in + is added to it. What is wrong is an error of
// the form FILE:LINE, or a warning where the node can do without.
func readConfig(path string, named bool, words vocabulary) (args, warnings []string, err error) {
	if strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://") {
		return nil, nil, fmt.Errorf("%s: configuration is not read from the network: copy the file to this host", path)
	}
	files, err := configFiles(path, named)
	if err != nil {
		return nil, nil, err
	}
	given := map[string][]string{}
	var order []string
	for _, file := range files {
		keys, err := readKeys(file)
		if err != nil {
			return nil, nil, err
		}
		for _, key := range keys {
			warning, known, err := words.judge(key)
			if err != nil {
				return nil, nil, err
			}
			if warning != "" {
				warnings = append(warnings, warning)
			}
			if !known {
				continue
			}
			if !slices.Contains(order, key.name) {
				order = append(order, key.name)
			}
			if key.add {
				given[key.name] = append(given[key.name], key.values...)
			} else {
				given[key.name] = key.values
			}
		}
	}
	for _, name := range order {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		for _, value := range given[name] {
			args = append(args, dashes+name+"="+value)
		}
	}
	return args, warnings, nil
}

func configFiles(path string, named bool) ([]string, error) {
	var files []string
	_, err := os.Stat(path)
	switch {
	case err == nil:
		files = append(files, path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	entries, err := os.ReadDir(path + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		suffix := strings.ToLower(filepath.Ext(entry.Name()))
		if !entry.IsDir() && (suffix == ".yaml" || suffix == ".yml") {
			files = append(files, filepath.Join(path+".d", entry.Name()))
		}
	}
	if named && len(files) == 0 {
		return nil, fmt.Errorf("%s: the file is not there, nor are any in %s.d", path, path)
	}
	return files, nil
}

// configKey is one key of a file.
type configKey struct {
	name   string
	at     string // FILE:LINE
	values []string
	list   bool
	add    bool // it ends in +
	null   bool
}

func readKeys(file string) ([]configKey, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yamlfile.Decode(file, raw, &document); errors.Is(err, yamlfile.ErrEmpty) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
		return nil, nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want KEY: VALUE lines", file, root.Line)
	}
	var keys []configKey
	lines := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		key := configKey{name: name.Value, at: fmt.Sprintf("%s:%d", file, name.Line)}
		if before, twice := lines[name.Value]; twice {
			return nil, fmt.Errorf("%s: %s is already set in line %d", key.at, name.Value, before)
		}
		lines[name.Value] = name.Line
		key.name, key.add = strings.CutSuffix(name.Value, "+")
		if err := key.take(file, value); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// take reads a value: a scalar as it is written, or a list of them.
func (k *configKey) take(file string, node *yaml.Node) error {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch node.Kind {
	case yaml.ScalarNode:
		k.null = node.Tag == "!!null"
		if !k.null {
			k.values = append(k.values, node.Value)
		}
		return nil
	case yaml.SequenceNode:
		k.list = true
		for _, item := range node.Content {
			if item.Kind == yaml.AliasNode {
				item = item.Alias
			}
			if item.Kind != yaml.ScalarNode {
				return fmt.Errorf("%s:%d: %s: an item must be a word: write a=b, not a: b", file, item.Line, k.name)
			}
			if item.Tag != "!!null" {
				k.values = append(k.values, item.Value)
			}
		}
		return nil
	}
	return fmt.Errorf("%s: %s: want a value or a list", k.at, k.name)
}

// judge tells whether a key is to be followed.
func (w vocabulary) judge(key configKey) (warning string, known bool, err error) {
	fail := func(err error) (string, bool, error) { return "", false, fmt.Errorf("%s: %w", key.at, err) }
	if o, is := former[key.name]; is {
		for _, value := range key.values {
			warning, err := o.check(key.name, value)
			if err != nil {
				return fail(err)
			}
			if warning != "" {
				return key.at + ": " + warning, false, nil
			}
		}
		return "", false, nil
	}
	boolean, known := w.options[key.name]
	_, elsewhere := w.elsewhere[key.name]
	switch {
	case known && boolean && (key.null || key.list):
		return fail(fmt.Errorf("%s: want true or false", key.name))
	case known && boolean:
		key.values[0] = truth(key.values[0])
		return "", true, nil
	case known && key.list && !w.lists[key.name] && len(key.values) > 1:
		return fail(fmt.Errorf("%s: takes one value, not a list", key.name))
	case known:
		return "", true, nil
	case elsewhere:
		return fmt.Sprintf("%s: %s is not an option of this command and not used", key.at, key.name), false, nil
	}
	meant := nearest(key.name, slices.Concat(slices.Sorted(maps.Keys(w.options)), slices.Sorted(maps.Keys(former))))
	what := unknownOption(key.name, meant)
	if critical[meant] {
		return fail(errors.New(what))
	}
	return key.at + ": " + what + " (it is not used)", false, nil
}

// environment judges RKE2_* variables that no option has: only those that are nearly
// an option's are taken for a slip, since others use the prefix too.
func (w vocabulary) environment(environ []string) (warnings []string, err error) {
	options := slices.Sorted(maps.Keys(w.options))
	known := slices.Sorted(maps.Keys(w.variables))
	for _, pair := range environ {
		variable, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(variable, "RKE2_") || w.variables[variable] || variable == "RKE2_CONFIG_FILE" {
			continue
		}
		at := slices.IndexFunc(known, func(k string) bool { return edits(variable, k) <= farthest })
		if at < 0 {
			continue
		}
		what := fmt.Sprintf("unknown variable %s: did you mean %s?", variable, known[at])
		if critical[nearest(known[at], options)] {
			return nil, errors.New(what)
		}
		warnings = append(warnings, what+" (it is not used)")
	}
	return warnings, nil
}

// truth spells YAML 1.1's words as the engine wants them.
func truth(word string) string {
	switch strings.ToLower(word) {
	case "yes", "on", "y":
		return "true"
	case "no", "off", "n":
		return "false"
	}
	return word
}
