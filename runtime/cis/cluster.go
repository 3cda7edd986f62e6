package cis

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// Applied is the annotation of a namespace that got its objects: what an operator
// changes or deletes afterwards stays so.
const Applied = "rke2.io/cis-defaults"

// namespaces are those that every cluster has.
var namespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault}

// Apply gives the cluster's own namespaces their default network policies, and takes
// the token out of pods that run as their default service account (automount). It is
// done once for a namespace; it fails if one of them is not there yet.
func Apply(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range namespaces {
		if err := apply(ctx, client, name); err != nil {
			return fmt.Errorf("hardening the namespace %s: %w", name, err)
		}
	}
	return nil
}

func apply(ctx context.Context, client kubernetes.Interface, name string) error {
	namespace, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if _, done := namespace.Annotations[Applied]; done {
		return nil
	}
	for _, policy := range policies(name) {
		_, err := client.NetworkingV1().NetworkPolicies(name).Create(ctx, &policy, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("network policy %s: %w", policy.Name, err)
		}
	}
	account, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if account.AutomountServiceAccountToken == nil {
		if _, err := client.CoreV1().ServiceAccounts(name).Patch(ctx, "default", types.MergePatchType,
			[]byte(`{"automountServiceAccountToken":false}`), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("service account default: %w", err)
		}
	}
	mark, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{Applied: "applied"}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Namespaces().Patch(ctx, name, types.MergePatchType, mark, metav1.PatchOptions{})
	return err
}

// policies let pods of a namespace speak to each other and nobody else in; in
// kube-system they leave open what the cluster's own services are for.
func policies(namespace string) []networkingv1.NetworkPolicy {
	list := []networkingv1.NetworkPolicy{policy(namespace, "default-network-policy", nil,
		networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}})}
	if namespace != metav1.NamespaceSystem {
		return list
	}
	for _, open := range []struct {
		name   string
		labels map[string]string
		ports  []networkingv1.NetworkPolicyPort
	}{
		{"default-network-dns-policy", map[string]string{"k8s-app": "kube-dns"}, ports(53, corev1.ProtocolUDP, corev1.ProtocolTCP)},
		{"default-network-metrics-server-policy", map[string]string{"app": "rke2-metrics-server"}, ports(10250, corev1.ProtocolTCP)},
		{"default-network-ingress-policy", map[string]string{"app.kubernetes.io/name": "rke2-ingress-nginx"},
			append(ports(80, corev1.ProtocolTCP), ports(443, corev1.ProtocolTCP)...)},
		{"default-network-ingress-webhook-policy", map[string]string{"app.kubernetes.io/name": "rke2-ingress-nginx"}, ports(8443, corev1.ProtocolTCP)},
		{"default-network-snapshot-validation-webhook-policy", map[string]string{"app.kubernetes.io/name": "rke2-snapshot-validation-webhook"}, ports(8443, corev1.ProtocolTCP)},
	} {
		list = append(list, policy(namespace, open.name, open.labels, networkingv1.NetworkPolicyIngressRule{Ports: open.ports}))
	}
	return list
}

func policy(namespace, name string, labels map[string]string, rule networkingv1.NetworkPolicyIngressRule) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: labels},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{rule},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
}

func ports(number int32, protocols ...corev1.Protocol) []networkingv1.NetworkPolicyPort {
	var list []networkingv1.NetworkPolicyPort
	for _, protocol := range protocols {
		port := intstr.FromInt32(number)
		list = append(list, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
	}
	return list
}
