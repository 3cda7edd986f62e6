// Package images holds what is built: one folder a component with its wrapper module
// (the version), its image.yaml (how it is built) and, where an image is made of it,
// its Dockerfile; and product.yaml, which names the product's release. The package's
// types say the same in Go, [Load] reads them strictly, and [EmbeddedRelease] is what
// a release build of the node binary carries of the images that were made.
package images
