package engine

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
)

// nodeRole is the role, and the user, that the engine on every node watches the cluster
// with: without it an agent learns of no server but the one that it joined through, and
// the engine ends the node when it has waited a quarter of an hour for the permission.
const nodeRole = "system:rke2-controller"

// nodeRules are what that user may do: find the API servers, and the nodes, pods and
// network policies that its tunnel and its controllers are about.
func nodeRules() []*rbac.PolicyRuleApplyConfiguration {
	rule := func(group string, resources, verbs []string) *rbac.PolicyRuleApplyConfiguration {
		return rbac.PolicyRule().WithAPIGroups(group).WithResources(resources...).WithVerbs(verbs...)
	}
	read := []string{"get", "list", "watch"}
	return []*rbac.PolicyRuleApplyConfiguration{
		rule("", []string{"nodes", "namespaces", "endpoints", "pods"}, read),
		rule("", []string{"nodes/status"}, []string{"patch"}),
		rule("networking.k8s.io", []string{"networkpolicies"}, read),
		rule("discovery.k8s.io", []string{"endpointslices"}, read),
	}
}

// grantRoles gives the engine on every node its role once the API is up.
func (e *Executor) grantRoles(ctx context.Context) {
	if wait(ctx, e.apiServerReady) != nil {
		return
	}
	_ = retry(ctx, e.log, time.Second, func(ctx context.Context) error {
		client, err := e.supervisor()
		if err != nil {
			return err
		}
		return applyRoles(ctx, client)
	}, "waiting to give the nodes their role", "role", nodeRole) // or the node ends
}

func applyRoles(ctx context.Context, client kubernetes.Interface) error {
	ours := metav1.ApplyOptions{FieldManager: "rke2", Force: true}
	role := rbac.ClusterRole(nodeRole).WithRules(nodeRules()...)
	if _, err := client.RbacV1().ClusterRoles().Apply(ctx, role, ours); err != nil {
		return err
	}
	binding := rbac.ClusterRoleBinding(nodeRole).
		WithRoleRef(rbac.RoleRef().WithAPIGroup("rbac.authorization.k8s.io").WithKind("ClusterRole").WithName(nodeRole)).
		WithSubjects(rbac.Subject().WithAPIGroup("rbac.authorization.k8s.io").WithKind("User").WithName(nodeRole))
	_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, binding, ours)
	return err
}
