package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/k3s/pkg/agent/cri"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/rancher/rke2/runtime/pod"
)

// write writes a static pod whose UID is that of its content, unless it is there.
func (p *pods) write(role string, c pod.Component) error {
	image, err := p.image(role)
	if err != nil {
		return err
	}
	c.Image = image
	text, err := pod.Manifest(c)
	if err != nil {
		return err
	}
	var made corev1.Pod
	if err := yaml.Unmarshal(text, &made); err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	made.UID = types.UID(hex.EncodeToString(sum[:16]))
	if text, err = yaml.Marshal(made); err != nil {
		return err
	}
	file := p.manifest(c.Name)
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, text) {
		return nil
	}
	beside := filepath.Join(filepath.Dir(manifestDir), "."+c.Name+".yaml")
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, file)
}

func readManifest(file string) (corev1.Pod, error) {
	var read corev1.Pod
	text, err := os.ReadFile(file)
	if err != nil {
		return read, err
	}
	return read, yaml.Unmarshal(text, &read)
}

const criSocket = "/run/k3s/containerd/containerd.sock"

// reconcile looks every 20 s if etcd and the API server run in the sandboxes of their
// manifests, removes other sandboxes of theirs, and returns when nothing is to be done.
func reconcile(ctx context.Context) error {
	for {
		err := reconcileOnce(ctx)
		if err == nil {
			return nil
		}
		logrus.Infof("Static pods are not in sync: %v", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Second):
		}
	}
}

func reconcileOnce(ctx context.Context) error {
	conn, err := cri.Connection(ctx, criSocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	for _, name := range []string{"etcd", "kube-apiserver"} {
		want, err := readManifest(filepath.Join(manifestDir, name+".yaml"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := inSync(ctx, client, want); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func inSync(ctx context.Context, client runtimeapi.RuntimeServiceClient, want corev1.Pod) error {
	all, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{"component": want.Labels["component"], "io.kubernetes.pod.namespace": want.Namespace},
	}})
	if err != nil {
		return err
	}
	const uid = "io.kubernetes.pod.uid"
	var newest *runtimeapi.PodSandbox
	for _, s := range all.Items {
		if s.Labels[uid] == string(want.UID) && (newest == nil || s.CreatedAt > newest.CreatedAt) {
			newest = s
		}
	}
	removed := false
	for _, s := range all.Items {
		if s != newest {
			removed = true
			if _, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				return err
			}
		}
	}
	switch {
	case removed:
		return errors.New("an old sandbox was removed")
	case newest == nil:
		return errors.New("there is no sandbox")
	case newest.State != runtimeapi.PodSandboxState_SANDBOX_READY:
		return errors.New("the sandbox is dead")
	}
	return nil
}
