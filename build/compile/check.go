package compile

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"strings"

	"github.com/rancher/rke2/images"
)

// check asserts what is promised of a binary from the binary itself, and gives the
// cryptography that its build info states.
func check(path string, c images.Component, fips string, p Platform) (crypto, goVersion string, err error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("reading build info of %s: %w", path, err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"] != p.OS || settings["GOARCH"] != p.Arch {
		return "", "", fmt.Errorf("%s was built for %s/%s, not %s", path, settings["GOOS"], settings["GOARCH"], p)
	}
	switch c.Crypto {
	case images.BoringCrypto:
		if !strings.Contains(","+settings["GOEXPERIMENT"]+",", ",boringcrypto,") {
			return "", "", fmt.Errorf("%s was not built with boringcrypto: its build info says GOEXPERIMENT=%q", path, settings["GOEXPERIMENT"])
		}
		crypto = "boringcrypto"
	case images.NoCrypto:
		crypto = "none"
	default:
		// The snapshot's name is the version and its hash: v1.0.0-c2097c7c in form.
		crypto = settings["GOFIPS140"]
		if !strings.HasPrefix(crypto, fips+"-") {
			return "", "", fmt.Errorf("%s was not built with the Go Cryptographic Module %s: its build info says GOFIPS140=%q", path, fips, crypto)
		}
		if !strings.Contains(","+settings["DefaultGODEBUG"]+",", ",fips140=on,") {
			return "", "", fmt.Errorf("%s does not run in FIPS mode: its build info says DefaultGODEBUG=%q", path, settings["DefaultGODEBUG"])
		}
		crypto = "fips140 " + crypto
	}
	if p.OS == "linux" {
		if err := static(path); err != nil {
			return "", "", err
		}
	}
	return crypto, info.GoVersion, nil
}

// static refuses a program that needs a loader or shared libraries: there are none in
// the images, and the node's may be others.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: it asks for a loader (PT_INTERP)", path)
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if len(libs) > 0 {
		return fmt.Errorf("%s is not static: it needs %s", path, strings.Join(libs, ", "))
	}
	return nil
}
