package engine

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestRoles: what the engine waits for before it looks for servers, and ends the node
// when it does not get it; and what it waits for before it starts the cloud controller
// manager.
func TestRoles(t *testing.T) {
	for name, rules := range map[string][]*rbac.PolicyRuleApplyConfiguration{nodeRole: nodeRules(), cloudRole: cloudRules()} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			for range 2 {
				if err := applyRole(t.Context(), client, name, rules); err != nil {
					t.Fatal(err)
				}
			}
			role, err := client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			lists := false
			for _, rule := range role.Rules {
				lists = lists || slices.Contains(rule.APIGroups, "discovery.k8s.io") && slices.Contains(rule.Resources, "endpointslices") &&
					slices.Contains(rule.Verbs, "list") && slices.Contains(rule.Verbs, "watch")
				if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "secrets") {
					t.Errorf("the role allows too much: %v", rule)
				}
			}
			if !lists {
				t.Errorf("the role does not allow to list endpointslices: %v", role.Rules)
			}
			binding, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || binding.RoleRef.Name != name || len(binding.Subjects) != 1 || binding.Subjects[0].Kind != "User" || binding.Subjects[0].Name != name {
				t.Errorf("%+v, %v", binding, err)
			}
		})
	}
}
