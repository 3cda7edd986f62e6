package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/k3s-io/k3s/pkg/cli/cmds"
	"github.com/k3s-io/k3s/pkg/kubeadm"
	"github.com/k3s-io/k3s/pkg/util"
	"github.com/urfave/cli/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// bootstrapTokenInfo is what may be told of a bootstrap token: all but its secret.
type bootstrapTokenInfo struct {
	ID          string     `json:"id"`
	Description string     `json:"description,omitempty"`
	Created     time.Time  `json:"created"`
	Expires     *time.Time `json:"expires,omitempty"` // nil: never
	Usages      []string   `json:"usages"`
	Groups      []string   `json:"groups"` // beside system:bootstrappers
}

// listTokens is `rke2 token list`: the engine's own leaves the ids out of JSON and YAML.
func listTokens(c *cli.Context) error {
	format := cmds.TokenConfig.Output
	switch format {
	case "text", "json", "yaml":
	default:
		return fmt.Errorf("--output %s is not known: use text, json or yaml", format)
	}
	client, err := util.GetClientSet(util.GetKubeConfigPath(cmds.TokenConfig.Kubeconfig))
	if err != nil {
		return err
	}
	tokens, err := bootstrapTokens(c.Context, client, c.App.ErrWriter)
	if err != nil {
		return err
	}
	return printTokens(c.App.Writer, tokens, format, time.Now())
}

// bootstrapTokens are the cluster's, by id. What is wrong with one that cannot be read is
// written to warnings.
func bootstrapTokens(ctx context.Context, client kubernetes.Interface, warnings io.Writer) ([]bootstrapTokenInfo, error) {
	secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, fmt.Errorf("listing bootstrap tokens: %w", err)
	}
	tokens := []bootstrapTokenInfo{}
	for _, secret := range secrets.Items {
		token, err := kubeadm.BootstrapTokenFromSecret(&secret)
		if err != nil {
			fmt.Fprintf(warnings, "rke2: secret %s/%s is left out: %v\n", secret.Namespace, secret.Name, err)
			continue
		}
		info := bootstrapTokenInfo{
			ID: token.Token.ID, Description: token.Description, Created: secret.CreationTimestamp.UTC(),
			Usages: append([]string{}, token.Usages...), Groups: append([]string{}, token.Groups...),
		}
		if token.Expires != nil {
			end := token.Expires.UTC()
			info.Expires = &end
		}
		tokens = append(tokens, info)
	}
	return tokens, nil
}

func printTokens(w io.Writer, tokens []bootstrapTokenInfo, format string, now time.Time) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(tokens)
	case "yaml":
		document, err := yaml.Marshal(tokens)
		if err == nil {
			_, err = w.Write(document)
		}
		return err
	}
	t := tabwriter.NewWriter(w, 10, 4, 3, ' ', 0)
	fmt.Fprintln(t, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for _, token := range tokens {
		left, expires := "<forever>", "<never>"
		if token.Expires != nil {
			left, expires = "<expired>", token.Expires.Format(time.RFC3339)
			if ttl := token.Expires.Sub(now); ttl > 0 {
				left = duration.ShortHumanDuration(ttl)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", token.ID, left, expires, orNone(strings.Join(token.Usages, ",")), orNone(token.Description), orNone(strings.Join(token.Groups, ",")))
	}
	return t.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}
