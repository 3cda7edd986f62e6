package catalog

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Identity tells a file, or a layout, from another that has its name at another time.
func Identity(path string) string {
	if isLayout(path) {
		path = filepath.Join(path, "index.json")
	}
	st, err := os.Stat(path)
	if err != nil {
		return path + " gone"
	}
	id := fmt.Sprintf("%s %d %d", path, st.Size(), st.ModTime().UnixNano())
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id += fmt.Sprintf(" %d:%d", sys.Dev, sys.Ino)
	}
	return id
}
