package rebuild

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"strings"
)

// explain says of two files what differs, if they are programs: a line of Go's build
// information, else the section that the byte at offset is in. Otherwise it says nothing.
func explain(a, b string, offset int64) string {
	if line := buildInfo(a, b); line != "" {
		return line
	}
	f, err := elf.Open(a)
	if err != nil {
		return ""
	}
	defer f.Close()
	at := uint64(offset)
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL && at >= s.Offset && at < s.Offset+s.FileSize {
			return fmt.Sprintf("in ELF section %s, %d bytes into it", s.Name, at-s.Offset)
		}
	}
	return "in no ELF section: headers or padding"
}

// buildInfo gives the first line in which what Go put into two programs differs.
func buildInfo(a, b string) string {
	ia, err := buildinfo.ReadFile(a)
	if err != nil {
		return ""
	}
	ib, err := buildinfo.ReadFile(b)
	if err != nil {
		return ""
	}
	la, lb := strings.Split(ia.String(), "\n"), strings.Split(ib.String(), "\n")
	for i := range max(len(la), len(lb)) {
		x, y := line(la, i), line(lb, i)
		if x != y {
			return fmt.Sprintf("Go's build information: %q, %q", x, y)
		}
	}
	return ""
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return strings.ReplaceAll(lines[i], "\t", " ")
	}
	return "(missing)"
}
