// Package buildkit makes images from Dockerfiles with BuildKit: with a daemon that is
// already running, or with one that it starts, shut off from the network, and takes away
// again. The Dockerfiles and named contexts are those of package image, whose builder
// needs no daemon; here RUN and several stages are understood too. Nothing is fetched:
// what a Dockerfile names is a context or an earlier stage, or it is refused.
//
// The result has the form of package image's: an OCI image (image-spec v1.1) with zstd
// layers, owners and modes as in the contexts, and no time later than the image's epoch.
package buildkit
