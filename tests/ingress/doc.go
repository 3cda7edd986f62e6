// Package ingress tests the image of the NGINX ingress controller as it is in the OCI
// layout: its Lua modules in its own nginx, and the whole of it against the API server
// and etcd that are shipped, as uid 101 in its own root file system. Each test runs in
// network, process and mount namespaces of its own, so nothing of it can stay behind.
package ingress
