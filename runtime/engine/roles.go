package engine

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rancher/rke2/runtime/config"
)

// nodeRole is the role, and the user, that the engine on every node watches the cluster
// with: without it an agent learns of no server but the one that it joined through, and
// the engine ends the node when it has waited a quarter of an hour for the permission.
const nodeRole = "system:rke2-controller"

// nodeRules are what that user may do: find the API servers, and the nodes, pods and
// network policies that its tunnel and its controllers are about.
func nodeRules() []*rbac.PolicyRuleApplyConfiguration {
	read := []string{"get", "list", "watch"}
	return []*rbac.PolicyRuleApplyConfiguration{
		rule("", []string{"nodes", "namespaces", "endpoints", "pods"}, read),
		rule("", []string{"nodes/status"}, []string{"patch"}),
		rule("networking.k8s.io", []string{"networkpolicies"}, read),
		rule("discovery.k8s.io", []string{"endpointslices"}, read),
	}
}

// cloudRole is the role, and the user, of the release's cloud controller manager.
const cloudRole = "rke2-cloud-controller-manager"

// cloudRules are what it does without a load balancer of its own: elect who works, set
// the addresses of nodes, their zone and taint, and clear away what a load balancer left.
func cloudRules() []*rbac.PolicyRuleApplyConfiguration {
	read := []string{"get", "list", "watch"}
	return []*rbac.PolicyRuleApplyConfiguration{
		rule("coordination.k8s.io", []string{"leases"}, []string{"get", "create", "update"}),
		rule("", []string{"events"}, []string{"create", "patch", "update"}),
		rule("", []string{"nodes"}, append(read, "update", "patch", "delete")),
		rule("", []string{"nodes/status"}, []string{"patch"}),
		rule("", []string{"services", "pods"}, read),
		rule("apps", []string{"daemonsets"}, []string{"deletecollection"}),
		rule("discovery.k8s.io", []string{"endpointslices"}, read), // what the engine asks for before it starts it
	}
}

func rule(group string, resources, verbs []string) *rbac.PolicyRuleApplyConfiguration {
	return rbac.PolicyRule().WithAPIGroups(group).WithResources(resources...).WithVerbs(verbs...)
}

// grantRoles gives the engine on every node, and the cloud controller manager where there
// is one, their roles once the API is up.
func (e *Executor) grantRoles(ctx context.Context) {
	if wait(ctx, e.apiServerReady) != nil {
		return
	}
	_ = retry(ctx, e.log, time.Second, func(ctx context.Context) error {
		client, err := e.supervisor()
		if err != nil {
			return err
		}
		if err := applyRole(ctx, client, nodeRole, nodeRules()); err != nil {
			return err
		}
		if !e.runs(config.RoleCloudController) {
			return nil
		}
		if err := applyRole(ctx, client, cloudRole, cloudRules()); err != nil {
			return err
		}
		return delegate(ctx, client, cloudRole)
	}, "waiting to give the nodes their role", "role", nodeRole) // or the node ends
}

// asOurs is how this product owns what it applies.
var asOurs = metav1.ApplyOptions{FieldManager: "rke2", Force: true}

// applyRole makes a role, and gives it to the user of the same name.
func applyRole(ctx context.Context, client kubernetes.Interface, name string, rules []*rbac.PolicyRuleApplyConfiguration) error {
	if _, err := client.RbacV1().ClusterRoles().Apply(ctx, rbac.ClusterRole(name).WithRules(rules...), asOurs); err != nil {
		return err
	}
	return bind(ctx, client, name, name, name)
}

func bind(ctx context.Context, client kubernetes.Interface, name, role, user string) error {
	_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, rbac.ClusterRoleBinding(name).
		WithRoleRef(rbac.RoleRef().WithAPIGroup(rbacGroup).WithKind("ClusterRole").WithName(role)).
		WithSubjects(userSubject(user)), asOurs)
	return err
}

// delegate lets a component that serves ask the API server who its callers are.
func delegate(ctx context.Context, client kubernetes.Interface, user string) error {
	if err := bind(ctx, client, user+"-auth-delegator", "system:auth-delegator", user); err != nil {
		return err
	}
	_, err := client.RbacV1().RoleBindings("kube-system").Apply(ctx, rbac.RoleBinding(user+"-authentication-reader", "kube-system").
		WithRoleRef(rbac.RoleRef().WithAPIGroup(rbacGroup).WithKind("Role").WithName("extension-apiserver-authentication-reader")).
		WithSubjects(userSubject(user)), asOurs)
	return err
}

const rbacGroup = "rbac.authorization.k8s.io"

func userSubject(name string) *rbac.SubjectApplyConfiguration {
	return rbac.Subject().WithAPIGroup(rbacGroup).WithKind("User").WithName(name)
}
