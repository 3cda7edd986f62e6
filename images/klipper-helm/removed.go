package main

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/releaseutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"
)

// moved are kinds that Kubernetes serves in another group than it once did. "" is one
// that is gone, and its objects with it.
var moved = map[schema.GroupKind]string{
	{Group: "extensions", Kind: "DaemonSet"}:         "apps",
	{Group: "extensions", Kind: "Deployment"}:        "apps",
	{Group: "extensions", Kind: "ReplicaSet"}:        "apps",
	{Group: "extensions", Kind: "Ingress"}:           "networking.k8s.io",
	{Group: "extensions", Kind: "NetworkPolicy"}:     "networking.k8s.io",
	{Group: "extensions", Kind: "PodSecurityPolicy"}: "",
	{Group: "policy", Kind: "PodSecurityPolicy"}:     "",
}

var apiVersionLine = regexp.MustCompile(`(?m)^apiVersion:.*$`)

// api is what a Kubernetes serves.
type api struct {
	versions map[string][]string // of each group, the preferred one first
	kinds    map[schema.GroupVersionKind]bool
}

func servedBy(d discovery.ServerResourcesInterface) (api, error) {
	groups, lists, err := d.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return api{}, fmt.Errorf("asking what the Kubernetes API serves: %w", err)
	}
	a := api{versions: map[string][]string{}, kinds: map[schema.GroupVersionKind]bool{}}
	for _, g := range groups {
		a.addGroup(g)
	}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return api{}, fmt.Errorf("asking what the Kubernetes API serves: %w", err)
		}
		for _, r := range l.APIResources {
			a.kinds[gv.WithKind(r.Kind)] = true
		}
	}
	return a, nil
}

func (a api) addGroup(g *metav1.APIGroup) {
	versions := []string{g.PreferredVersion.Version}
	for _, v := range g.Versions {
		if v.Version != g.PreferredVersion.Version {
			versions = append(versions, v.Version)
		}
	}
	a.versions[g.Name] = versions
}

// modernise rewrites what a release remembers of its objects, where it remembers them in
// versions of the API that this Kubernetes no longer serves: an upgrade or uninstall
// would find no such kind, and fail for ever. The objects are still there, under the
// newer version. What is not known to have one is left alone, as is every group that
// isn't served at all: its server may be down. Each change is told.
func modernise(manifest string, a api) (string, []string) {
	docs := releaseutil.SplitManifests(manifest)
	keys := make([]string, 0, len(docs))
	for k := range docs {
		keys = append(keys, k)
	}
	sort.Sort(releaseutil.BySplitManifestsOrder(keys))
	var out strings.Builder
	var changes []string
	for _, k := range keys {
		doc, change := a.newer(docs[k])
		if change != "" {
			changes = append(changes, change)
		}
		if doc != "" {
			out.WriteString("---\n" + doc + "\n")
		}
	}
	if len(changes) == 0 {
		return manifest, nil
	}
	return out.String(), changes
}

// newer gives one object in a version that is served; "" if its kind is gone.
func (a api) newer(doc string) (_, change string) {
	var head releaseutil.SimpleHead
	if err := yaml.Unmarshal([]byte(doc), &head); err != nil || head.Kind == "" {
		return doc, ""
	}
	gv, err := schema.ParseGroupVersion(head.Version)
	if err != nil || slices.Contains(a.versions[gv.Group], gv.Version) {
		return doc, "" // the core group has no name, and one version
	}
	name := head.Kind
	if head.Metadata != nil {
		name += " " + head.Metadata.Name
	}
	group := gv.Group
	if to, ok := moved[schema.GroupKind{Group: gv.Group, Kind: head.Kind}]; ok {
		if to == "" {
			return "", fmt.Sprintf("%s of %s: Kubernetes has no such kind any more: forgotten", name, head.Version)
		}
		group = to
	}
	for _, v := range a.versions[group] {
		to := schema.GroupVersion{Group: group, Version: v}
		if a.kinds[to.WithKind(head.Kind)] && apiVersionLine.MatchString(doc) {
			at := apiVersionLine.FindStringIndex(doc)
			return doc[:at[0]] + "apiVersion: " + to.String() + doc[at[1]:], fmt.Sprintf("%s of %s: remembered as of %s", name, head.Version, to)
		}
	}
	return doc, ""
}
