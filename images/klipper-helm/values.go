package main

import (
	"fmt"
	"path/filepath"
	"sort"

	"helm.sh/helm/v3/pkg/cli/values"
)

// mergeValues merges the values of a job, the later over the earlier: the files of
// /config in lexical order (a HelmChart's before its HelmChartConfig's), then --set,
// then --set-string, as Helm's command line does.
func mergeValues(j job, f files) (map[string]any, error) {
	found, err := filepath.Glob(filepath.Join(f.config, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("looking for values: %w", err)
	}
	sort.Strings(found)
	opts := values.Options{ValueFiles: found, Values: j.set, StringValues: j.setString}
	// Without getters every name is a file.
	v, err := opts.MergeValues(nil)
	if err != nil {
		return nil, fmt.Errorf("values of HelmChart %s: %w", j.name, err)
	}
	return v, nil
}
