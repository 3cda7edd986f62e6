// Package manifest is what a bundle is declared to hold: rke2-bundle.yaml, its JSON
// Schema, and the lock that keeps what its names meant.
package manifest

// Version and Kind are what a manifest says of itself.
const (
	Version = "rke2.rancher.io/v1"
	Kind    = "Bundle"
	// FileName is what a manifest is usually called.
	FileName = "rke2-bundle.yaml"
)

// Bundle declares a bundle: one file a platform, made of all that is listed. Paths are
// relative to the manifest's folder.
type Bundle struct {
	// APIVersion is rke2.rancher.io/v1.
	APIVersion string `yaml:"apiVersion" json:"apiVersion"`
	// Kind is Bundle.
	Kind string `yaml:"kind" json:"kind"`
	// Name is the base name of the files that are made: NAME.OS-ARCH.tar.
	Name string `yaml:"name" json:"name,omitempty"`
	// Platforms are OS/ARCH[/VARIANT], such as linux/amd64. One bundle is made for each.
	Platforms []string `yaml:"platforms" json:"platforms,omitempty"`
	// Layouts are OCI image layouts in folders.
	Layouts []Layout `yaml:"layouts" json:"layouts,omitempty"`
	// Images are references to images in registries, by tag or digest.
	Images []string `yaml:"images" json:"images,omitempty"`
	// ImageLists are files of such references, one a line; # begins a comment.
	ImageLists []string `yaml:"imageLists" json:"imageLists,omitempty"`
	// Archives are image archives: bundles, docker save archives, OCI archives.
	Archives []Archive `yaml:"archives" json:"archives,omitempty"`
	// Charts are Helm charts, taken with the images that they need.
	Charts []Chart `yaml:"charts" json:"charts,omitempty"`
	// Files are plain files and folders that are carried along.
	Files []File `yaml:"files" json:"files,omitempty"`
	// RequireSigned makes an image without a signature of a trusted key an error.
	RequireSigned bool `yaml:"requireSigned" json:"requireSigned,omitempty"`
	// Keys are files of public keys (PEM) to trust; the release's and the host's if there
	// are none.
	Keys []string `yaml:"keys" json:"keys,omitempty"`
	// Format of the bundles: tar (default), tar.zst or tar.gz.
	Format string `yaml:"format" json:"format,omitempty" jsonschema:"enum=tar,enum=tar.zst,enum=tar.gz"`
	// Split makes bundles in parts of at most this size, such as 4GB or 700MiB.
	Split string `yaml:"split" json:"split,omitempty"`

	file  string
	lines lines
}

// Layout is an OCI image layout in a folder, such as rke2-build writes.
type Layout struct {
	// Path of the folder.
	Path string `yaml:"path" json:"path"`
	// Sets of its images to take, such as core and canal; none, or all, takes every image
	// that is not for tests alone (the set test).
	Sets []string `yaml:"sets" json:"sets,omitempty"`
	// AllowUnsigned takes images that have no signature.
	AllowUnsigned bool `yaml:"allowUnsigned" json:"allowUnsigned,omitempty"`
}

// Archive is a file with images.
type Archive struct {
	// Path of the file.
	Path string `yaml:"path" json:"path"`
	// Images to take from it, by reference; none takes every image.
	Images []string `yaml:"images" json:"images,omitempty"`
}

// Chart is a Helm chart and how it will be installed, which decides what images it needs.
type Chart struct {
	// Chart is a folder, a .tgz file, an oci:// reference, or a name in the repository.
	Chart string `yaml:"chart" json:"chart"`
	// Repo is the URL of the chart repository, if Chart is a name.
	Repo string `yaml:"repo" json:"repo,omitempty"`
	// Version of the chart, if it is not in a file.
	Version string `yaml:"version" json:"version,omitempty"`
	// Release is the name that it will be installed under; the chart's name if empty.
	Release string `yaml:"release" json:"release,omitempty"`
	// Namespace that it will be installed into; default if empty.
	Namespace string `yaml:"namespace" json:"namespace,omitempty"`
	// ValuesFiles are files of values; later ones override earlier ones.
	ValuesFiles []string `yaml:"valuesFiles" json:"valuesFiles,omitempty"`
	// Set are values as helm's --set takes them: a.b=c. They override files.
	Set []string `yaml:"set" json:"set,omitempty"`
	// Values are written here; they override files, and Set overrides them.
	Values map[string]any `yaml:"values" json:"values,omitempty"`
	// KubeVersion that the chart is rendered for, such as v1.30.0.
	KubeVersion string `yaml:"kubeVersion" json:"kubeVersion,omitempty"`
	// APIVersions are further APIs that the cluster will have, such as monitoring.coreos.com/v1.
	APIVersions []string `yaml:"apiVersions" json:"apiVersions,omitempty"`
	// Images that the chart needs and that rendering does not show.
	Images []string `yaml:"images" json:"images,omitempty"`
	// PossibleImages takes images too that the chart names where they need not be used.
	PossibleImages bool `yaml:"possibleImages" json:"possibleImages,omitempty"`
	// Registry and path under which the bundle names the chart; oci://REGISTRY/PATH. Where
	// it came from if empty.
	Registry string `yaml:"registry" json:"registry,omitempty"`
}

// File is a file, or a folder with all in it, that is carried along.
type File struct {
	// Path of the file or folder.
	Path string `yaml:"path" json:"path"`
	// To is its path in the bundle: relative, with slashes; its base name if empty.
	To string `yaml:"to" json:"to,omitempty"`
}
