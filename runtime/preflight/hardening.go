package preflight

import (
	"fmt"
	"slices"

	"github.com/rancher/rke2/runtime/cis"
	"github.com/rancher/rke2/runtime/config"
)

// Hardening looks for what the host must have for the profile that is set, and for
// SELinux where containers are to be labelled.
func Hardening(in Input) Check {
	const name = "profile"
	c := in.Config
	check := ok(name, "none is set")
	if c.SELinux {
		if err := cis.SELinux(in.Machine.Root); err != nil {
			return Check{Name: name, Verdict: Fail, Found: err.Error(), ToDo: "take selinux out of the settings, or boot with SELinux"}
		}
		check.Found = "containers are labelled for SELinux"
	}
	if c.Profile == "" {
		return check
	}
	findings, err := cis.Check(in.Machine.Root, c.Profile, c.Role == config.Server)
	if err != nil {
		return Check{Name: name, Verdict: Fail, Found: err.Error(), ToDo: "mount /proc, and run it as root"}
	}
	if len(findings) == 0 {
		check.Found = fmt.Sprintf("this host is prepared for profile %s", c.Profile)
		return check
	}
	check.Verdict, check.Found = Fail, fmt.Sprintf("profile %s: this host is not prepared for it", c.Profile)
	var todo []string
	for _, f := range findings {
		check.Details = append(check.Details, f.String())
		if !slices.Contains(todo, f.ToDo) {
			todo = append(todo, f.ToDo)
		}
	}
	check.ToDo = "run"
	for _, command := range todo {
		check.ToDo += "\n    " + command
	}
	return check
}
