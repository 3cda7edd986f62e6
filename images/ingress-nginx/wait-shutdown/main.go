// Command wait-shutdown is what a pod's preStop hook runs: it tells the controller to
// terminate, and returns when the nginx that it runs has served its last request. (The
// command of that name in upstream's module wants bash and pkill.)
//
// Called pgrep it lists the processes whose title has the word that it is given, as the
// controller asks when worker-serial-reloads is set.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	controller = "nginx-ingress-controller"
	server     = "nginx: master process"
	poll       = 200 * time.Millisecond
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if filepath.Base(args[0]) == "pgrep" {
		if len(args) != 2 {
			return errors.New("usage: pgrep WORD")
		}
		pids, err := find(func(title string) bool { return strings.Contains(title, args[1]) })
		for _, pid := range pids {
			fmt.Println(pid)
		}
		return err
	}
	pids, err := find(func(title string) bool { return filepath.Base(title) == controller })
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("%s is not running", controller)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("telling %s (process %d) to terminate: %w", controller, pid, err)
		}
	}
	for {
		left, err := find(func(title string) bool { return strings.HasPrefix(title, server) })
		if err != nil || len(left) == 0 {
			return err
		}
		time.Sleep(poll)
	}
}

// find gives the processes, not itself, whose title is wanted: what they call themselves
// in their first argument.
func find(wanted func(title string) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // gone since
		}
		if err != nil {
			return nil, fmt.Errorf("looking for processes: %w", err)
		}
		title, _, _ := strings.Cut(string(data), "\x00")
		if wanted(title) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
