package engine

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func tokenSecret(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system", CreationTimestamp: metav1.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       map[string][]byte{},
	}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

func TestListTokens(t *testing.T) {
	client := fake.NewClientset(
		tokenSecret("bootstrap-token-abcdef", map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "description": "rack 7", "expiration": "2030-01-02T05:04:05+01:00",
			"usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:k3s:default-node-token",
		}),
		tokenSecret("bootstrap-token-ghijkl", map[string]string{"token-id": "ghijkl", "token-secret": "0123456789abcdef"}),
		tokenSecret("bootstrap-token-broken", map[string]string{"token-id": "broken"}),
	)
	var warnings strings.Builder
	tokens, err := bootstrapTokens(t.Context(), client, &warnings)
	if err != nil {
		t.Fatal(err)
	}
	if got := warnings.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "secret kube-system/bootstrap-token-broken is left out") {
		t.Errorf("warnings: %s", got)
	}
	now := time.Date(2030, 1, 2, 3, 34, 5, 0, time.UTC)
	for format, want := range map[string]string{
		"json": `[
  {
    "id": "abcdef",
    "description": "rack 7",
    "created": "2030-01-02T03:04:05Z",
    "expires": "2030-01-02T04:04:05Z",
    "usages": [
      "authentication",
      "signing"
    ],
    "groups": [
      "system:bootstrappers:k3s:default-node-token"
    ]
  },
  {
    "id": "ghijkl",
    "created": "2030-01-02T03:04:05Z",
    "usages": [],
    "groups": []
  }
]
`,
		"yaml": `- created: "2030-01-02T03:04:05Z"
  description: rack 7
  expires: "2030-01-02T04:04:05Z"
  groups:
  - system:bootstrappers:k3s:default-node-token
  id: abcdef
  usages:
  - authentication
  - signing
- created: "2030-01-02T03:04:05Z"
  groups: []
  id: ghijkl
  usages: []
`,
		"text": `TOKEN     TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS
abcdef    30m         2030-01-02T04:04:05Z   authentication,signing   rack 7        system:bootstrappers:k3s:default-node-token
ghijkl    <forever>   <never>                <none>                   <none>        <none>
`,
	} {
		var out strings.Builder
		if err := printTokens(&out, tokens, format, now); err != nil || out.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", format, err, out.String(), want)
		}
		if strings.Contains(out.String(), "0123456789abcdef") {
			t.Errorf("%s tells a secret", format)
		}
	}
	var out strings.Builder
	if err := printTokens(&out, tokens[:1], "text", now.Add(24*time.Hour)); err != nil || !strings.Contains(out.String(), "abcdef    <expired>") {
		t.Errorf("a day later: %v\n%s", err, out.String())
	}
	out.Reset()
	if tokens, err = bootstrapTokens(t.Context(), fake.NewClientset(), &warnings); err != nil {
		t.Fatal(err)
	}
	if err := printTokens(&out, tokens, "json", now); err != nil || out.String() != "[]\n" {
		t.Errorf("none: %v\n%s", err, out.String())
	}
}

func TestListTokensRefusesAFormat(t *testing.T) {
	err := RunSubcommand("token list", []string{"--output=table"})
	if err == nil || !strings.Contains(err.Error(), "use text, json or yaml") {
		t.Errorf("--output table: %v", err)
	}
}
