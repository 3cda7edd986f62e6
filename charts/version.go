package charts

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// newest picks the highest version that matches, as Helm does: none wanted is the
// newest that is no pre-release. What is not a version is passed over.
func newest(versions []string, wanted string) (string, error) {
	if slices.Contains(versions, wanted) {
		return wanted, nil
	}
	constraint, err := semver.NewConstraint(or(wanted, "*"))
	if err != nil {
		return "", fmt.Errorf("version %q: %w", wanted, err)
	}
	best, bestVersion := "", (*semver.Version)(nil)
	for _, v := range versions {
		parsed, err := semver.NewVersion(v)
		if err != nil || !constraint.Check(parsed) {
			continue
		}
		if bestVersion == nil || parsed.GreaterThan(bestVersion) {
			best, bestVersion = v, parsed
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: version %s; there are %s", ErrNotFound, or(wanted, "(any release)"), some(versions))
	}
	return best, nil
}

// some lists a few of many.
func some(list []string) string {
	switch {
	case len(list) == 0:
		return "none"
	case len(list) > 8:
		return strings.Join(list[:8], ", ") + fmt.Sprintf(" and %d others", len(list)-8)
	}
	return strings.Join(list, ", ")
}

// matches tells whether a version is the one wanted, or in the range that is.
func matches(wanted, version string) bool {
	if sameVersion(wanted, version) {
		return true
	}
	constraint, err := semver.NewConstraint(wanted)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(version)
	return err == nil && constraint.Check(v)
}

// sameVersion compares two spellings: with or without a leading v.
func sameVersion(a, b string) bool {
	return strings.TrimPrefix(a, "v") == strings.TrimPrefix(b, "v")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
