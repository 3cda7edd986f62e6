// Package charts loads Helm charts (a folder, a .tgz, an OCI reference, a repository),
// renders them as `helm install` would on a cluster that has nothing yet, and lists the
// images that what was rendered needs. It follows Helm's chart format v1 and v2, and the
// engine is Helm's own. Charts are foreign bytes: archives are read within limits, and
// templates run in a process of their own with bounds on time and memory.
//
// Which Helm that is: the main module's. It is linked into the same program as K3s, so its
// version is one that asks for no newer gRPC, OpenTelemetry and Kubernetes libraries than
// K3s is made for; the newest Helm does. On a cluster another one renders: that of the helm
// job's image, whose module (images/klipper-helm) has no K3s to agree with and follows
// Helm's releases. Both are Helm 3 and take the same charts; one whose output depends on
// .Capabilities.HelmVersion may list other images here than it pulls there.
package charts
