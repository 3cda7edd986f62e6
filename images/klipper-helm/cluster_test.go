package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// flaky answers after a number of questions.
type flaky struct {
	kubefake.PrintingKubeClient
	asked, after int
	err          error
}

func (f *flaky) IsReachable() error {
	f.asked++
	if f.asked > f.after {
		return nil
	}
	return fmt.Errorf("Kubernetes cluster unreachable: %w", f.err)
}

func TestReach(t *testing.T) {
	refused := errors.New("connection refused")
	var log bytes.Buffer
	r := &report{out: &log}
	k := &flaky{PrintingKubeClient: kubefake.PrintingKubeClient{Out: io.Discard}, after: 2, err: refused}
	if err := reach(context.Background(), k, time.Minute, r); err != nil || k.asked != 3 {
		t.Errorf("%v after %d questions", err, k.asked)
	}
	if n := strings.Count(log.String(), "waiting for the Kubernetes API"); n != 1 {
		t.Errorf("told %d times", n)
	}
	k = &flaky{after: 1000, err: refused}
	if err := reach(context.Background(), k, time.Millisecond, r); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	// An answer is an answer.
	k = &flaky{after: 1000, err: apierrors.NewUnauthorized("expired")}
	if err := reach(context.Background(), k, time.Minute, r); !apierrors.IsUnauthorized(err) || k.asked != 1 {
		t.Errorf("%v after %d questions", err, k.asked)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("signal"))
	k = &flaky{after: 1000, err: refused}
	if err := reach(ctx, k, time.Minute, r); err == nil || err.Error() != "signal" {
		t.Errorf("got %v", err)
	}
}
