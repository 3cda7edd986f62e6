// Package airgap writes and reads bundles: tar archives of container images with
// their cosign signatures, which are an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md) and a
// docker-archive at once, so that other tools read them too.
//
// A bundle that this package wrote is the same bytes for the same images, and its
// reader accepts nothing else: the head and every tar header must be exactly what
// [Write] makes of the index. A partial bundle, a part of a split one ([Split]) or a
// delta ([MakeDelta]), is a bundle that lacks some of a whole's layers and says which whole
// that is; [Join] reads several as that whole. Archives of other tools (docker save,
// skopeo, ctr) are read more leniently, with the same limits.
package airgap
