// Package engine runs the K3s engine: certificates, supervisor, etcd
// membership, tunnel, deploy and helm controllers. It is the only package that
// imports K3s, so K3s's globals, its flag library and its log live behind this
// door. What the engine starts on this node — containerd and the kubelet as
// children, the control plane as static pods — is ours: see Executor.
package engine
