// Package image makes OCI images (image-spec v1.1) from Dockerfiles without a daemon.
//
// Dockerfiles are read by BuildKit's own parser. What is understood is a subset:
// one FROM (scratch or a named context), ARG, COPY [--from=CONTEXT] [--chmod=OCTAL]
// [--link], LABEL, ENV, USER, WORKDIR, ENTRYPOINT, CMD (both in the JSON form), EXPOSE,
// VOLUME and STOPSIGNAL. Anything else is refused by name, file and line; nothing is
// run. The result is the one BuildKit gives for the same file and contexts, save that
// every COPY is its own reproducible layer.
package image
