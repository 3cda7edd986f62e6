package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/rancher/rke2/runtime/config"
	"github.com/rancher/rke2/runtime/preflight"
)

// skew is how far apart the clocks of two servers may be before etcd complains.
const skew = time.Second

// join looks at the server that the node is to join, and asks it for the time.
func join(ctx context.Context, o Options) []preflight.Check {
	c := preflight.Check{Name: "server", Verdict: preflight.OK}
	at := o.Config.Join
	if at == "" {
		if o.Config.Role == config.Server {
			return nil
		}
		c.Verdict, c.Found, c.ToDo = preflight.Fail, "an agent joins a cluster, and no server is set", "set server: https://HOST:9345, and token"
		return []preflight.Check{c}
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		c.Verdict, c.Found, c.ToDo = preflight.Fail, fmt.Sprintf("server %q is no address to join", at), "set server: https://HOST:9345"
		return []preflight.Check{c}
	}
	c.Found = at
	if u.Port() == "6443" {
		c.Verdict, c.ToDo = preflight.Warn, "6443 is the API's port: nodes join at 9345"
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && len(hostsFile(o.Machine, u.Hostname())) == 0 {
		c.Found += " (the name is not in /etc/hosts: it is asked of name servers)"
	}
	if o.Dial {
		meet(ctx, o, u, &c)
	}
	return []preflight.Check{c}
}

// meet asks the server whether it is there, and what time it has. Its certificate is not
// judged: the token says which it must be.
func meet(ctx context.Context, o Options, u *url.URL, c *preflight.Check) {
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: o.Patience}).DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("ping").String(), nil)
	if err != nil {
		c.Verdict, c.Found, c.ToDo = preflight.Fail, err.Error(), "correct server"
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		c.Verdict, c.Found = preflight.Fail, fmt.Sprintf("%s does not answer: %v", u, err)
		c.ToDo = "start that server, and let this host reach its port 9345"
		return
	}
	defer answer.Body.Close()
	c.Found += ": it answers " + answer.Status
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return
	}
	ours := o.Machine.Now()
	if off := ours.Sub(theirs); off > skew+time.Second || off < -skew-time.Second {
		c.Verdict = preflight.Warn
		c.Found += fmt.Sprintf("; its clock says %s, this host's %s", theirs.UTC().Format(time.DateTime), ours.UTC().Format(time.DateTime))
		c.ToDo = "set both clocks by one source (chrony)"
	}
}
