package cis

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestApply(t *testing.T) {
	client := fake.NewClientset()
	ctx := t.Context()
	if err := Apply(ctx, client); err == nil {
		t.Error("without namespaces: no error")
	}
	yes := true
	for _, name := range namespaces {
		if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}}
		if name == metav1.NamespacePublic {
			account.AutomountServiceAccountToken = &yes // an operator's own wish
		}
		if _, err := client.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Apply(ctx, client); err != nil {
		t.Fatal(err)
	}
	for _, name := range namespaces {
		account, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := account.AutomountServiceAccountToken, name == metav1.NamespacePublic; got == nil || *got != want {
			t.Errorf("%s: automount %v, want %v", name, got, want)
		}
		policy, err := client.NetworkingV1().NetworkPolicies(name).Get(ctx, "default-network-policy", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(policy.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) ||
			len(policy.Spec.Ingress) != 1 || len(policy.Spec.Ingress[0].From) != 1 || policy.Spec.Ingress[0].From[0].NamespaceSelector != nil {
			t.Errorf("%s: %+v", name, policy.Spec)
		}
	}
	dns, err := client.NetworkingV1().NetworkPolicies(metav1.NamespaceSystem).Get(ctx, "default-network-dns-policy", metav1.GetOptions{})
	if err != nil || len(dns.Spec.Ingress) != 1 || len(dns.Spec.Ingress[0].From) != 0 || len(dns.Spec.Ingress[0].Ports) != 2 {
		t.Errorf("DNS: %+v, %v", dns, err)
	}

	// What the operator deletes stays deleted.
	if err := client.NetworkingV1().NetworkPolicies(metav1.NamespaceDefault).Delete(ctx, "default-network-policy", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(ctx, client); err != nil {
		t.Fatal(err)
	}
	if list, err := client.NetworkingV1().NetworkPolicies(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("it came back: %+v, %v", list, err)
	}
}
