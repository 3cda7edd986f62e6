package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Running is where it can be seen which programs of a staged root still run.
type Running struct {
	Shims string // containerd's folder of tasks: <namespace>/<id>/shim-binary-path
	Proc  string // /proc
}

// Host is this machine's.
func Host() Running {
	return Running{Shims: "/run/k3s/containerd/io.containerd.runtime.v2.task", Proc: "/proc"}
}

// From says what runs from a root: the shim of a task that containerd knows,
// or any process. It is "" if there is nothing, and says why if that cannot be
// told: the root must stay then too.
func (r Running) From(dir string) string {
	dirs := []string{dir + "/"}
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
		dirs = append(dirs, real+"/")
	}
	within := func(path string) bool {
		for _, d := range dirs {
			if strings.HasPrefix(path, d) {
				return true
			}
		}
		return false
	}
	shim, err := r.shim(within)
	if shim == "" && err == nil {
		shim, err = r.process(within)
	}
	if err != nil {
		return fmt.Sprintf("cannot tell what runs from it: %v", err)
	}
	return shim
}

func (r Running) shim(within func(string) bool) (string, error) {
	namespaces, err := readDir(r.Shims)
	if err != nil {
		return "", err
	}
	for _, namespace := range namespaces {
		tasks, err := readDir(filepath.Join(r.Shims, namespace.Name()))
		if err != nil {
			return "", err
		}
		for _, task := range tasks {
			path, err := os.ReadFile(filepath.Join(r.Shims, namespace.Name(), task.Name(), "shim-binary-path"))
			if err != nil && !gone(err) {
				return "", err
			}
			if within(string(path)) {
				return "the shim of " + namespace.Name() + "/" + task.Name(), nil
			}
		}
	}
	return "", nil
}

// process looks at what every process was started from. A file that was
// replaced or removed since is still told by its path.
func (r Running) process(within func(string) bool) (string, error) {
	entries, err := readDir(r.Proc)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		// Kernel threads have none, and others may have ended.
		program, err := os.Readlink(filepath.Join(r.Proc, entry.Name(), "exe"))
		if err == nil && within(program) {
			return "process " + entry.Name() + " (" + filepath.Base(program) + ")", nil
		}
	}
	return "", nil
}

// readDir takes a folder that is not there for an empty one.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return nil, nil
	}
	return entries, err
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
