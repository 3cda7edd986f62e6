// Package preflight looks at a host before a node starts on it. A check is a value: what
// was found, what it means and what to do. `rke2 doctor` shows all of them; those that
// would stop a node half way stop it before anything is written, in the same words.
package preflight

import (
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rancher/rke2/airgap"
	"github.com/rancher/rke2/airgap/trust"
	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/host"
	"github.com/rancher/rke2/runtime/scan"
)

// Verdict is what a check says of a host.
type Verdict string

// A warning is something that may hurt later, or that only an operator can judge. A
// fault keeps the node from running.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string   `json:"name"`
	Verdict Verdict  `json:"verdict"`
	Found   string   `json:"found"`             // one line
	Details []string `json:"details,omitempty"` // lines that say more
	ToDo    string   `json:"toDo,omitempty"`    // empty if there is nothing to do
}

// String is the check in words, over several lines.
func (c Check) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", c.Name, c.Found)
	for _, d := range c.Details {
		fmt.Fprintf(&b, "\n  %s", d)
	}
	if c.ToDo != "" {
		fmt.Fprintf(&b, "\n  to do: %s", c.ToDo)
	}
	return b.String()
}

func ok(name, found string, args ...any) Check {
	return Check{Name: name, Verdict: OK, Found: fmt.Sprintf(found, args...)}
}

// worse raises a verdict, and never lowers it.
func (c *Check) worse(v Verdict) {
	if v == Fail || c.Verdict == OK {
		c.Verdict = v
	}
}

// Input is what is looked at: a machine, the settings of the node that is to run on it,
// and the bundles that it was given.
type Input struct {
	Machine host.Machine
	Config  config.Config
	Folder  *scan.Folder
	// Admit asks the node's policy about an image of a bundle.
	Admit func(*airgap.Archive, airgap.Image) (trust.Admitted, error)
	// Pinned is the digest that the release pins a name to, if it does.
	Pinned func(Need) (v1.Hash, bool)
	// Starting is true for a node that starts, false for a look at one that may run.
	Starting bool
}

// RefusedError is why a node does not start: every check that failed.
type RefusedError struct{ Checks []Check }

func (e *RefusedError) Error() string {
	var b strings.Builder
	b.WriteString("this node cannot start")
	if n := len(e.Checks); n > 1 {
		fmt.Fprintf(&b, ", for %d reasons", n)
	}
	for _, c := range e.Checks {
		b.WriteString("\n" + c.String())
	}
	return b.String()
}

// Start runs the checks that must hold before a node starts. Warnings are those that an
// operator is to read in the log; the error is a [*RefusedError] and names all faults.
func Start(in Input) (warnings []Check, err error) {
	in.Starting = true
	var faults []Check
	for _, check := range []func(Input) Check{User, Cgroups, Filesystem, DataDir, Space, Ports, Route, Clock, Hardening, Images} {
		switch c := check(in); c.Verdict {
		case Fail:
			faults = append(faults, c)
		case Warn:
			warnings = append(warnings, c)
		case OK:
		}
	}
	if len(faults) > 0 {
		return warnings, &RefusedError{faults}
	}
	return warnings, nil
}

// User holds who runs rke2 to who can.
func User(in Input) Check {
	const name = "user"
	if in.Machine.UID != 0 {
		return Check{Name: name, Verdict: Fail, Found: fmt.Sprintf("it runs as user %d, not as root", in.Machine.UID), ToDo: "run it as root"}
	}
	return ok(name, "root")
}

// plural is a number of things in words.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// and joins names as people write them.
func and(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
