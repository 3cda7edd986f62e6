package engine

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestRoles: what the engine waits for before it looks for servers, and ends the node
// when it does not get it.
func TestRoles(t *testing.T) {
	client := fake.NewClientset()
	for range 2 {
		if err := applyRoles(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	role, err := client.RbacV1().ClusterRoles().Get(t.Context(), nodeRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lists := false
	for _, rule := range role.Rules {
		lists = lists || slices.Contains(rule.APIGroups, "discovery.k8s.io") && slices.Contains(rule.Resources, "endpointslices") && slices.Contains(rule.Verbs, "list")
		if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "secrets") {
			t.Errorf("the role allows too much: %v", rule)
		}
	}
	if !lists {
		t.Errorf("the role does not allow to list endpointslices: %v", role.Rules)
	}
	binding, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), nodeRole, metav1.GetOptions{})
	if err != nil || binding.RoleRef.Name != nodeRole || len(binding.Subjects) != 1 || binding.Subjects[0].Kind != "User" || binding.Subjects[0].Name != nodeRole {
		t.Errorf("%+v, %v", binding, err)
	}
}
