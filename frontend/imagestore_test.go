package frontend

import (
	"testing"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/worker/label"

	"github.com/org/localfront/frontend/resolve"
)

func TestResolveMode(t *testing.T) {
	t.Parallel()
	const oci, other = "oci", "containerd"
	for name, c := range map[string]struct {
		asked  resolve.Mode
		labels map[string]string
		want   resolve.Mode
	}{
		"buildkitd":                      {resolve.Default, map[string]string{label.Executor: oci}, resolve.Default},
		"buildkitd on containerd":        {resolve.Default, map[string]string{label.Executor: other}, resolve.Default},
		"Docker 20.10":                   {resolve.Default, nil, resolve.Local},
		"Docker, graph driver":           {resolve.Default, map[string]string{hostGateway: "172.17.0.1"}, resolve.Local},
		"Docker, containerd image store": {resolve.Default, map[string]string{label.Executor: other, hostGateway: "172.17.0.1"}, resolve.Local},
		"Docker, --pull":                 {resolve.Pull, nil, resolve.Pull},
	} {
		if got := resolveMode(string(c.asked), []client.WorkerInfo{{Labels: c.labels}}); got != c.want {
			t.Errorf("%s: %s becomes %s, want %s", name, c.asked, got, c.want)
		}
	}
	if got := resolveMode(string(resolve.Default), nil); got != resolve.Default {
		t.Errorf("no workers: %s", got)
	}
}
