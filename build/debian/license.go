package debian

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

const copyrightFormat = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0"

// spdx are the licence identifiers of SPDX by Debian's short names (copyright-format 1.0,
// 7.1), where the two mean the same.
var spdx = map[string]string{
	"apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
	"cc-by-sa-4.0": "CC-BY-SA-4.0", "cc0-1.0": "CC0-1.0", "expat": "MIT", "fsfap": "FSFAP", "fsful": "FSFUL", "fsfullr": "FSFULLR",
	"gpl-1": "GPL-1.0-only", "gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later",
	"gpl-3": "GPL-3.0-only", "gpl-3+": "GPL-3.0-or-later", "isc": "ISC",
	"lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later", "lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later",
	"lgpl-3": "LGPL-3.0-only", "lgpl-3+": "LGPL-3.0-or-later", "mpl-2.0": "MPL-2.0", "x11": "X11", "zlib": "Zlib",
}

// license gives what a package's copyright file declares, as an SPDX expression; "" where
// it isn't machine-readable or names a licence that SPDX has no certain name for. Half an
// expression would be a wrong one.
func (t tree) license(name string) string {
	i := slices.IndexFunc(t.Entries, func(e entry) bool { return e.Path == "usr/share/doc/"+name+"/copyright" && e.File != "" })
	if i < 0 {
		return ""
	}
	f, err := os.Open(filepath.Join(t.dir, t.Entries[i].File))
	if err != nil {
		return "" // the layer's reader says so
	}
	defer f.Close()
	return expression(io.LimitReader(f, maxLine))
}

func expression(copyright io.Reader) string {
	var all []string
	known, readable := true, false
	err := paragraphs(copyright, nil, func(p paragraph) error {
		if format := strings.Replace(p["format"], "http:", "https:", 1); strings.HasPrefix(format, copyrightFormat) {
			readable = true
		}
		if p["files"] == "" || packaging(p["files"]) {
			return nil
		}
		short, _, _ := strings.Cut(p["license"], "\n")
		e, ok := alternatives(short)
		known = known && ok
		all = append(all, e)
		return nil
	})
	if err != nil || !readable || !known || len(all) == 0 {
		return ""
	}
	sort.Strings(all)
	all = slices.Compact(all)
	if len(all) > 1 {
		for i, e := range all {
			if strings.Contains(e, " OR ") {
				all[i] = "(" + e + ")"
			}
		}
	}
	return strings.Join(all, " AND ")
}

// packaging tells whether files are Debian's own, which no binary package has.
func packaging(files string) bool {
	for _, f := range strings.Fields(files) {
		if !strings.HasPrefix(f, "debian/") {
			return false
		}
	}
	return true
}

// alternatives reads "GPL-2+ or Artistic". Exceptions and lists with "and" are left
// alone.
func alternatives(short string) (string, bool) {
	var out []string
	for _, name := range strings.Split(short, " or ") {
		name = strings.ToLower(strings.TrimSpace(name))
		// 2.0 is written for 2, but in names that have no other form.
		id, ok := spdx[name]
		if !ok {
			id, ok = spdx[strings.Replace(name, ".0", "", 1)]
		}
		if !ok {
			return "", false
		}
		out = append(out, id)
	}
	sort.Strings(out)
	return strings.Join(out, " OR "), true
}
