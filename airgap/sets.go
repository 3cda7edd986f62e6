package airgap

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// AllSets stands for every image, of whatever set or none, but for those that tests
	// alone need.
	AllSets = "all"
	// TestSet is the set of images that tests need. What is in no other is taken only
	// where this set, or the image itself, is named.
	TestSet = "test"
)

// TestOnly tells whether what is in these sets is there for tests alone.
func TestOnly(sets []string) bool { return len(sets) == 1 && sets[0] == TestSet }

// InSets tells whether what is in some sets is wanted. Among the wanted ones, [AllSets]
// has its meaning.
func InSets(wanted, is []string) bool {
	return slices.Contains(wanted, AllSets) && !TestOnly(is) ||
		slices.ContainsFunc(is, func(s string) bool { return slices.Contains(wanted, s) })
}

// SetsOf are the sets that a descriptor of an index says of itself.
func SetsOf(d v1.Descriptor) []string { return splitSets(d.Annotations[AnnotationSets]) }

func splitSets(s string) []string {
	if s == "" {
		return nil
	}
	sets := strings.Split(s, ",")
	for i := range sets {
		sets[i] = strings.TrimSpace(sets[i])
	}
	slices.Sort(sets)
	return slices.Compact(sets)
}
