package debian

import (
	"fmt"
	"regexp"
	"strings"
)

// A relation is one alternative of a dependency (Debian policy 7.1).
type relation struct {
	name    string
	arch    string // qualifier: "" or any, or an architecture
	op      string // <<, <=, =, >=, >>; "": any version
	version string
}

func (r relation) String() string {
	if r.op == "" {
		return r.name
	}
	return fmt.Sprintf("%s (%s %s)", r.name, r.op, r.version)
}

// admits tells whether a version is one that the relation asks for.
func (r relation) admits(version string) bool {
	c := Compare(version, r.version)
	switch r.op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	default: // parseRelation knows no others
		return c > 0
	}
}

// Restrictions to architectures and build profiles come in source packages only.
var relationForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([0-9A-Za-z.+~:-]+)\s*\))?$`)

// parseRelations reads a field such as Depends: groups joined by commas, of which each
// is a choice of alternatives.
func parseRelations(field string) ([][]relation, error) {
	var out [][]relation
	for _, group := range strings.Split(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue
		}
		var alternatives []relation
		for _, a := range strings.Split(group, "|") {
			m := relationForm.FindStringSubmatch(strings.TrimSpace(a))
			if m == nil {
				return nil, fmt.Errorf("%.80q is no relation to a package", strings.TrimSpace(a))
			}
			r := relation{name: m[1], arch: m[2], op: m[3], version: m[4]}
			switch r.op { // what dpkg takes the old forms for
			case "<":
				r.op = "<="
			case ">":
				r.op = ">="
			}
			alternatives = append(alternatives, r)
		}
		out = append(out, alternatives)
	}
	return out, nil
}
