package engine

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStaticSandboxes(t *testing.T) {
	sandbox := func(id, component, source string, state runtimeapi.PodSandboxState) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{
			Id: id, State: state,
			Labels:      map[string]string{"component": component},
			Annotations: map[string]string{"kubernetes.io/config.source": source},
		}
	}
	const up, down = runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	dead, alive := staticSandboxes([]*runtimeapi.PodSandbox{
		sandbox("1", "etcd", "file", down),
		sandbox("2", "etcd", "file", up),
		sandbox("3", "kube-apiserver", "file", down),
		sandbox("4", "kube-scheduler", "api", up), // somebody's ordinary pod with that label
		sandbox("5", "web", "api", down),
	})
	if len(dead) != 2 || dead[0].Id != "1" || dead[1].Id != "3" {
		t.Errorf("dead: %v", dead)
	}
	if len(alive) != 1 || !alive["etcd"] {
		t.Errorf("alive: %v", alive)
	}
}
