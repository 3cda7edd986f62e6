// Package sbom writes the software bill of materials of one platform's image: an SPDX 2.3
// document (https://spdx.github.io/spdx-spec/v2.3/), in an in-toto statement about the
// image's manifest.
//
// The packages are the image, the Go modules that its programs say they were linked with,
// the Go standard library and cryptographic module, and the materials of everything else
// (Debian packages and sources, upstream images). Each file has its SHA-1 and SHA-256.
//
//	DOCUMENT DESCRIBES image
//	image    CONTAINS file                 every regular file
//	file     GENERATED_FROM package        main module, Debian package or source
//	file     DEPENDS_ON package            modules linked into a Go program
//	package  GENERATED_FROM package        a Debian package and its source
//	package  CONTAINS package              a Debian source and its archives
//	image    GENERATED_FROM package        what left no file of its own, such as a static library
//
// Nothing is guessed: what nobody states, such as most licences, is NOASSERTION. The same
// input gives the same bytes.
package sbom
