package debian

import (
	"strings"
	"testing"

	"github.com/rancher/rke2/build/debian/debiantest"
	"github.com/rancher/rke2/images"
)

const machineReadable = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: x\n\n"

func TestExpression(t *testing.T) {
	files := func(pattern, license string) string {
		return "Files: " + pattern + "\nCopyright: somebody\nLicense: " + license + "\n\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"one", machineReadable + files("*", "GPL-2+"), "GPL-2.0-or-later"},
		{"with its text", machineReadable + files("*", "Expat\n Permission is hereby\n .\n granted"), "MIT"},
		{"several", machineReadable + files("*", "GPL-2.0") + files("lib/*", "BSD-3-clause or LGPL-2.1+") + files("x", "GPL-2"), "(BSD-3-Clause OR LGPL-2.1-or-later) AND GPL-2.0-only"},
		{"choice alone", machineReadable + files("*", "LGPL-3+ or GPL-2+"), "GPL-2.0-or-later OR LGPL-3.0-or-later"},
		{"Debian's files", machineReadable + files("*", "Zlib") + files("debian/* debian/rules", "GPL-3+"), "Zlib"},
		{"older address", strings.Replace(machineReadable, "https", "http", 1) + files("*", "ISC"), "ISC"},
		{"own licence", machineReadable + files("*", "GPL-2") + files("y", "custom"), ""},
		{"exception", machineReadable + files("*", "GPL-2 with OpenSSL exception"), ""},
		{"and", machineReadable + files("*", "GPL-2 and Expat"), ""},
		{"prose", "This package was debianized by somebody.\n\nLicense: GPL-2\n", ""},
		{"no files", machineReadable, ""},
		{"empty", "", ""},
	} {
		if got := expression(strings.NewReader(c.text)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What a package declares is in its material.
func TestLicenseOfMaterial(t *testing.T) {
	a := debiantest.New(t)
	a.Add("", debiantest.Package{Name: "tool", Version: "1", Files: []debiantest.File{
		{Path: "./usr/share/doc/tool/copyright", Data: machineReadable + "Files: *\nLicense: Apache-2.0\n"}}})
	a.Publish(t)
	archive := open(t, a, Options{})
	got, err := New(archive).Make(ctx, locked(t, archive, images.Debian{Packages: []string{"tool"}}), amd64(), nil)
	if err != nil || len(got.Materials) != 1 || got.Materials[0].License != "Apache-2.0" {
		t.Errorf("%+v, %v", got.Materials, err)
	}
}
