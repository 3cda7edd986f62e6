package engine

import (
	"context"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ring is an etcd of which member 1 is asked.
type ring struct {
	leader  uint64
	members []*pb.Member
	behind  map[uint64]bool
}

func (r *ring) Status(context.Context, string) (*clientv3.StatusResponse, error) {
	return &clientv3.StatusResponse{Header: &pb.ResponseHeader{MemberId: 1}, Leader: r.leader}, nil
}

func (r *ring) MemberList(context.Context, ...clientv3.OpOption) (*clientv3.MemberListResponse, error) {
	return &clientv3.MemberListResponse{Members: r.members}, nil
}

func (r *ring) MemberPromote(_ context.Context, id uint64) (*clientv3.MemberPromoteResponse, error) {
	if r.behind[id] {
		return nil, rpctypes.ErrMemberLearnerNotReady
	}
	at := slices.IndexFunc(r.members, func(m *pb.Member) bool { return m.ID == id })
	if !r.members[at].IsLearner {
		return nil, rpctypes.ErrMemberNotLearner
	}
	r.members[at].IsLearner = false
	return &clientv3.MemberPromoteResponse{}, nil
}

func TestPromote(t *testing.T) {
	etcd := &ring{leader: 2, behind: map[uint64]bool{3: true}, members: []*pb.Member{
		{ID: 1, Name: "a"}, {ID: 2, Name: "b"}, {ID: 3, Name: "c", IsLearner: true}, {ID: 4, IsLearner: true},
	}}
	check := func(what string, want ...string) {
		t.Helper()
		if got, err := promote(t.Context(), etcd, ""); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: promoted %q, %v, want %q", what, got, err, want)
		}
	}
	check("another leads")
	etcd.leader = 1
	check("one is behind, one has not started")
	delete(etcd.behind, 3)
	check("it has learnt", "c")
	check("all vote")
}
