package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/mirrors"
	"github.com/rancher/rke2/runtime/preflight"
)

// offline looks for settings that cannot all be meant.
func offline(o Options) preflight.Check {
	c := preflight.Check{Name: "offline", Verdict: preflight.OK}
	c.Found = "offline is not set: images that no bundle has are asked of registries"
	if !o.Config.Offline {
		return c
	}
	c.Found = "no registry is ever dialled"
	var against []string
	if conf, _, err := mirrors.LoadForNode(o.Config.PrivateRegistry); err == nil && len(conf.Mirrors) > 0 {
		against = append(against, fmt.Sprintf("%s names mirrors, and offline keeps them from being asked", o.Config.PrivateRegistry))
	}
	if absent := prePulled(o); len(absent) > 0 {
		against = append(against, fmt.Sprintf("%d images of pre-pull lists are in no bundle and cannot be pulled", len(absent)))
		c.Details = absent
	}
	if len(against) > 0 {
		c.Verdict, c.Found = preflight.Warn, strings.Join(against, "; ")
		c.ToDo = "take offline out of the settings if registries are to be asked, or else what contradicts it"
	}
	return c
}

// maxList bounds a file of references.
const maxList = 1 << 20

// prePulled lists what the *.txt files in the images folder name and no bundle has.
func prePulled(o Options) []string {
	var out []string
	for _, path := range o.Folder.Other {
		info, err := os.Stat(path)
		if err != nil || filepath.Ext(path) != ".txt" || info.Size() > maxList {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
			if line == "" {
				continue
			}
			ref, err := airgap.ParseReference(strings.TrimSpace(line))
			if err != nil {
				continue // whoever pulls it says so
			}
			if _, err := o.Folder.FindAll(ref); err != nil {
				out = append(out, fmt.Sprintf("%s: %s", base(path), ref))
			}
		}
	}
	return out
}
