//go:build linux

package sealed

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// leakLimit is how long what has ended may take to disappear.
const leakLimit = 10 * time.Second

// Guard runs a program that makes hosts, its tests for one, and returns its exit
// status: that of run, or 1 if something was left behind. It clears up after
// earlier runs first, and does [Main]'s work.
func Guard(run func() int) int {
	Main()
	if Supported() != nil {
		return run() // which says so where it needs a host
	}
	fail := func(what string, err error) int {
		fmt.Fprintf(os.Stderr, "sealed hosts: %s: %v\n", what, err)
		return 1
	}
	if _, err := Sweep(); err != nil {
		return fail("clearing up after earlier runs", err)
	}
	before, err := Count()
	if err != nil {
		return fail("looking for what is there before", err)
	}
	code := run()
	left, err := Leaks(before, leakLimit)
	if err != nil {
		return fail("looking for what was left behind", err)
	}
	if len(left) > 0 {
		return fail("left behind", fmt.Errorf("\n  %s", strings.Join(left, "\n  ")))
	}
	return code
}
