// Package debian takes packages from a Debian archive (Debian repository format, deb(5),
// Debian policy 5 and 7): it verifies the archive's signed Release files, resolves
// declared packages with what they depend on to pins for the lock, and makes build
// contexts of locked packages. Nothing of a package is run: no maintainer script, no
// trigger.
package debian
