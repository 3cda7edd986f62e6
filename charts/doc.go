// Package charts loads Helm charts (a folder, a .tgz, an OCI reference, a repository),
// renders them as `helm install` would on a cluster that has nothing yet, and lists the
// images that what was rendered needs. It follows Helm's chart format v1 and v2, and the
// engine is Helm's own. Charts are foreign bytes: archives are read within limits, and
// templates run in a process of their own with bounds on time and memory.
package charts
