// Package layer reads the layers of container images: tar archives of changes to a file
// system (https://github.com/opencontainers/image-spec/blob/main/layer.md), written by
// anybody. [Read] lists one, bounded and checked; a [Tree] puts a sequence of them
// together. Nothing here touches a file system, so nothing in a layer can.
package layer
