package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/node"
)

func TestPrintInventory(t *testing.T) {
	inventory := node.Inventory{
		Role: config.Server, Folder: "/var/lib/rancher/rke2/agent/images", Offline: true, Containerd: "stopped",
		Images: []node.NodeImage{
			{Reference: "example.com/pause:1", Why: []string{"the sandbox image"}, Digest: "sha256:0123456789abcdef", Trusted: "release key 0f2891ed8241", Verified: true, Bundle: "/x/core.tar", State: node.Present, Pinned: true},
			{Reference: "example.com/app:1", Why: []string{"bundle", "list a.txt, line 2"}, Bundle: "/x/site.tar", Trusted: "not required", State: node.Absent},
			{Reference: "example.com/bad:1", Why: []string{"bundle"}, Bundle: "/x/site.tar", Fault: "it is not signed", State: node.Absent, Missing: true},
		},
		Faults: []string{"bundle /x/part1.tar is not complete"},
	}
	var out bytes.Buffer
	if err := printInventory(&out, inventory, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"example.com/pause:1  the sandbox image           sha256:0123456789ab  release key 0f2891ed8241  core.tar  present, pinned",
		"example.com/app:1    bundle, list a.txt, line 2  -                    nobody (not required)     site.tar  absent",
		"REFUSED", "MISSING", "FAULT  example.com/bad:1: it is not signed", "FAULT  bundle /x/part1.tar",
		"3 images for this server: 1 here, 1 in bundles only, 1 nowhere; containerd: stopped",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	out.Reset()
	inventory.Images = inventory.Images[2:]
	if err := printInventory(&out, inventory, true); err != nil || !strings.Contains(out.String(), "to do: copy the bundles that have them into "+inventory.Folder+"\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	inventory.Images, inventory.Faults = nil, nil
	if err := printInventory(&out, inventory, true); err != nil || out.String() != "nothing is missing; containerd: stopped\n" {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestImagesOptions(t *testing.T) {
	for _, args := range [][]string{{"images", "-o", "xml"}, {"images", "--role", "worker"}, {"images", "more"}} {
		if out, err := run(args...); err == nil {
			t.Errorf("%q was accepted: %s", args, out)
		}
	}
}
