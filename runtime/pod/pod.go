// Package pod turns what a control-plane component was configured with into
// the static Pod that the kubelet runs. It is pure: the same input gives the
// same bytes, so an unchanged component's Pod is never restarted.
package pod

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// Mount is a host path that a component sees at the same place.
type Mount struct {
	Path     string // host path, and path in the container unless Target is set
	Target   string
	Writable bool
	File     bool // a single file; a folder otherwise, which is made if missing
}

// Probe is an HTTP health check on the loopback address.
type Probe struct {
	Scheme string // HTTP or HTTPS
	Host   string
	Port   int
	Path   string
}

// Component is one control-plane component of a node.
type Component struct {
	Name    string // also the Pod's name, before the node's name
	Image   string
	Command string   // the executable in the image
	Args    []string // its arguments
	Env     []string // NAME=VALUE
	Mounts  []Mount
	// Requests are what is set aside for it, Limits what it may use at most.
	Requests, Limits Resources
	// The probes are nil where there is nothing to ask. Readiness is asked only if
	// Timings say how.
	Startup, Liveness, Readiness *Probe
	Timings                      Timings
	// User and Group are whom it runs as; nil: root.
	User, Group *int64
	// Grace is how many seconds it may take to end; 0: 30.
	Grace int64
	// Annotations are put on the Pod as they are.
	Annotations map[string]string
	// InputsDigest stands for the contents of the files that the component
	// reads once at start: when it changes, the kubelet restarts the Pod.
	InputsDigest string
}

// Annotations that this package writes.
const (
	// InputsAnnotation carries Component.InputsDigest.
	InputsAnnotation = "rke2.io/inputs-sha256"
	namespace        = "kube-system"
)

// A component may take startupLimit to answer first: etcd on a slow disk, an
// API server after a long outage. It is asked often, because nothing depending
// on it goes on before it answered.
const (
	startupPeriod = 2 // seconds
	startupLimit  = 300
)

// Manifest is the Pod of a component as YAML (core/v1 Pod).
func Manifest(c Component) ([]byte, error) {
	if c.Name == "" || c.Image == "" || c.Command == "" {
		return nil, fmt.Errorf("static pod %q: needs a name, an image and a command", c.Name)
	}
	resources, err := amounts(c)
	if err != nil {
		return nil, err
	}
	env, err := environment(c)
	if err != nil {
		return nil, err
	}
	volumes, mounts := volumes(c.Mounts)
	annotations := map[string]string{}
	for k, v := range c.Annotations {
		annotations[k] = v
	}
	if c.InputsDigest != "" {
		annotations[InputsAnnotation] = c.InputsDigest
	}
	pod := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        c.Name,
			Namespace:   namespace,
			Labels:      map[string]string{"component": c.Name, "tier": "control-plane"},
			Annotations: annotations,
		},
		Spec: corev1.PodSpec{
			HostNetwork:       true,
			PriorityClassName: "system-node-critical",
			Priority:          ptr(int32(2000001000)),
			// The kubelet must not wait long for components that the node is
			// about to replace, nor for those of a host that went down.
			TerminationGracePeriodSeconds: ptr(cmp.Or(c.Grace, 30)),
			SecurityContext: &corev1.PodSecurityContext{
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Volumes: volumes,
			Containers: []corev1.Container{{
				Name:            c.Name,
				Image:           c.Image,
				ImagePullPolicy: corev1.PullIfNotPresent,
				Command:         []string{c.Command},
				Args:            c.Args,
				Env:             env,
				Resources:       resources,
				VolumeMounts:    mounts,
				SecurityContext: &corev1.SecurityContext{
					ReadOnlyRootFilesystem:   ptr(true),
					AllowPrivilegeEscalation: ptr(false),
					RunAsUser:                c.User,
					RunAsGroup:               c.Group,
				},
				StartupProbe:   timed(startupProbe(c.Startup), c.Timings["startup"]),
				LivenessProbe:  timed(probe(c.Liveness, 8), c.Timings["liveness"]),
				ReadinessProbe: readinessProbe(c),
			}},
		},
	}
	raw, err := yaml.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("static pod %s: %w", c.Name, err)
	}
	return raw, nil
}

func environment(c Component) ([]corev1.EnvVar, error) {
	var env []corev1.EnvVar
	for _, pair := range c.Env {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("static pod %s: environment %q: want NAME=VALUE", c.Name, pair)
		}
		env = append(env, corev1.EnvVar{Name: name, Value: value})
	}
	return env, nil
}

// volumes names volumes by their path, so that the order of mounts is all that
// can change a Pod's bytes.
func volumes(mounts []Mount) ([]corev1.Volume, []corev1.VolumeMount) {
	var vs []corev1.Volume
	var ms []corev1.VolumeMount
	for _, m := range mounts {
		kind := corev1.HostPathDirectoryOrCreate
		if m.File {
			kind = corev1.HostPathFile
		}
		target := m.Target
		if target == "" {
			target = m.Path
		}
		sum := sha256.Sum256([]byte(m.Path + "\x00" + target))
		name := "host-" + hex.EncodeToString(sum[:6])
		vs = append(vs, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: m.Path, Type: &kind},
		}})
		ms = append(ms, corev1.VolumeMount{Name: name, MountPath: target, ReadOnly: !m.Writable})
	}
	return vs, ms
}

func probe(p *Probe, failures int32) *corev1.Probe {
	if p == nil {
		return nil
	}
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Scheme: corev1.URIScheme(p.Scheme), Host: p.Host, Path: p.Path, Port: intstr.FromInt32(int32(p.Port)),
		}},
		PeriodSeconds:    10,
		TimeoutSeconds:   15,
		FailureThreshold: failures,
	}
}

func startupProbe(p *Probe) *corev1.Probe {
	built := probe(p, startupLimit/startupPeriod)
	if built != nil {
		built.PeriodSeconds = startupPeriod
	}
	return built
}

func readinessProbe(c Component) *corev1.Probe {
	timing, asked := c.Timings["readiness"]
	if !asked {
		return nil
	}
	return timed(probe(c.Readiness, 3), timing)
}

// MountsFor lists what has to be mounted so that a component finds the files
// which its arguments name: the given base mounts, and every other absolute
// path in a flag's value that exists on the host (exists and isDir tell).
// Paths inside a mount already listed are not repeated.
func MountsFor(args []string, base []Mount, stat func(path string) (exists, isDir bool)) []Mount {
	mounts := slices.Clone(base)
	covered := func(path string) bool {
		return slices.ContainsFunc(mounts, func(m Mount) bool {
			return path == m.Path || (!m.File && strings.HasPrefix(path, m.Path+"/"))
		})
	}
	var extra []string
	for _, arg := range args {
		_, value, ok := strings.Cut(arg, "=")
		if !ok {
			continue
		}
		for _, path := range strings.Split(value, ",") {
			if filepath.IsAbs(path) && filepath.Clean(path) != "/" {
				extra = append(extra, filepath.Clean(path))
			}
		}
	}
	slices.Sort(extra)
	for _, path := range slices.Compact(extra) {
		if covered(path) {
			continue
		}
		if exists, isDir := stat(path); exists {
			mounts = append(mounts, Mount{Path: path, File: !isDir})
		}
	}
	return mounts
}

// ParseMount reads an operator's extra mount, HOST-PATH:CONTAINER-PATH[:ro|rw].
func ParseMount(s string) (Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || !filepath.IsAbs(parts[0]) || !filepath.IsAbs(parts[1]) {
		return Mount{}, fmt.Errorf("extra mount %q: want HOST-PATH:CONTAINER-PATH[:ro|rw] with absolute paths", s)
	}
	m := Mount{Path: filepath.Clean(parts[0]), Target: filepath.Clean(parts[1]), Writable: true}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			m.Writable = false
		case "rw":
		default:
			return Mount{}, fmt.Errorf("extra mount %q: the mode is %q, want ro or rw", s, parts[2])
		}
	}
	return m, nil
}

func ptr[T any](v T) *T { return &v }
