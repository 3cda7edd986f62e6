// Package node runs the product on a sealed host, as an operator does: bundles in
// agent/images, a configuration file, the rke2 binary. It has no way into the node
// but files, signals, logs and the Kubernetes API.
package node
