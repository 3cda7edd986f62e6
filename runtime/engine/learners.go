package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/k3s-io/k3s/pkg/daemons/executor"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// learnerPoll is how often the leader looks for members that learn. The engine does so
// every 15 s, and lets only one learn at a time: servers that join would wait for that.
const learnerPoll = time.Second

// members is what is asked of etcd.
type members interface {
	Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error)
	MemberList(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
	MemberPromote(ctx context.Context, id uint64) (*clientv3.MemberPromoteResponse, error)
}

// promoteLearners lets members vote as soon as they have what the leader has, until ctx
// is done.
func (e *Executor) promoteLearners(ctx context.Context, args *executor.ETCDConfig) {
	if wait(ctx, e.etcdReady) != nil {
		return
	}
	endpoint, _, _ := strings.Cut(args.ListenClientURLs, ",")
	client, err := etcdClient(ctx, endpoint, filepath.Join(e.serverDir(), "tls", "etcd"))
	if err != nil {
		e.log.Warn("members of etcd that join vote up to 15 s later", "error", err)
		return
	}
	defer client.Close()
	for {
		promoted, err := promote(ctx, client, endpoint)
		for _, name := range promoted {
			e.log.Info("a member of etcd votes from now on", "member", name)
		}
		if err != nil {
			e.log.Debug("cannot let a member of etcd vote", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(learnerPoll):
		}
	}
}

// promote asks that members that learn may vote, if the one that is asked leads, and
// returns their names. One that has not learnt enough is refused by etcd: it stays as it is.
func promote(ctx context.Context, etcd members, endpoint string) (promoted []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	status, err := etcd.Status(ctx, endpoint)
	if err != nil || status.Header.MemberId != status.Leader {
		return nil, err
	}
	list, err := etcd.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	for _, member := range list.Members {
		// One that has not started has no name yet.
		if !member.IsLearner || member.Name == "" {
			continue
		}
		switch _, err := etcd.MemberPromote(ctx, member.ID); {
		case err == nil:
			promoted = append(promoted, member.Name)
		case !errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			return promoted, fmt.Errorf("member %s: %w", member.Name, err)
		}
	}
	return promoted, nil
}

// etcdClient speaks to the etcd at endpoint with the certificates of the engine.
func etcdClient(ctx context.Context, endpoint, dir string) (*clientv3.Client, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(dir, "server-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s: no certificate in it", filepath.Join(dir, "server-ca.crt"))
	}
	return clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12},
	})
}
