package engine

import (
	"fmt"
	"strings"
)

// critical are the options whose misspelling must not pass as a warning: the node
// would be open, or would not be held to what the operator asked for.
var critical = map[string]bool{
	"offline": true, "image-verification": true, "trust-dir": true, "profile": true, "selinux": true,
	"token": true, "token-file": true, "agent-token": true, "agent-token-file": true,
	"protect-kernel-defaults": true, "secrets-encryption": true, "secrets-encryption-provider": true,
	"audit-policy-file": true, "pod-security-admission-config-file": true,
	"tls-san-security": true, "write-kubeconfig-mode": true, "write-kubeconfig-group": true,
	"private-registry": true, "system-default-registry": true, "disable-default-registry-endpoint": true,
	"kube-apiserver-arg": true, "kubelet-arg": true, "kube-controller-manager-arg": true, "kube-scheduler-arg": true, "etcd-arg": true,
	"bind-address": true, "data-dir": true, "server": true, "cluster-reset": true, "cluster-init": true,
	"datastore-endpoint": true, "datastore-cafile": true, "datastore-certfile": true, "datastore-keyfile": true,
}

// farthest is how many letters a name may be off and still be taken for a slip.
const farthest = 2

// nearest is the known name that was probably meant; "" if none is near.
func nearest(name string, known []string) string {
	spelled := normal(name)
	best, distance := "", farthest+1
	for _, k := range known {
		d := edits(spelled, k)
		// In a short name two letters are another name.
		if d < distance && d < len(k)/2 {
			best, distance = k, d
		}
	}
	return best
}

// unknownOption says that there is no such option, and what was meant if that is known.
func unknownOption(name, meant string) string {
	if meant == "" {
		return fmt.Sprintf("unknown option %q", name)
	}
	return fmt.Sprintf("unknown option %q: did you mean %s?", name, meant)
}

// normal spells a name as options are: imageVerification and IMAGE_VERIFICATION are
// image-verification.
func normal(name string) string {
	name = strings.TrimPrefix(strings.TrimLeft(name, "-"), "RKE2_")
	if strings.ToUpper(name) == name {
		name = strings.ToLower(name)
	}
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == '_' || r == '.' || r == ' ':
			b.WriteByte('-')
		case r >= 'A' && r <= 'Z':
			if i > 0 {
				b.WriteByte('-')
			}
			b.WriteRune(r + 'a' - 'A')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// edits is how many letters must be added, removed, changed or swapped with their
// neighbour to get from a to b (optimal string alignment).
func edits(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
