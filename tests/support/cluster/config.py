# SPDX-License-Identifier: BSD-3-Clause
"""How the cluster's components are started."""

from __future__ import annotations

import json
from pathlib import Path

from support.cluster.build import Programs
from support.cluster.node import ADDRESS

NODE = "node-1"
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/24"
API_SERVICE, DNS_SERVICE = "10.96.0.1", "10.96.0.10"
API = "https://127.0.0.1:6443"
RUNTIME_CLASSES = ("kata-qemu-snp", "kata-qemu-nvidia-gpu-snp")
PGPU = "nvidia.com/pgpu"


def etcd(folder: Path) -> list[str | Path]:
    """Return the command of the store."""
    pki = folder / "pki"
    return [
        "etcd", "--name", NODE, "--data-dir", folder / "etcd", "--unsafe-no-fsync",
        "--listen-client-urls", "https://127.0.0.1:2379", "--advertise-client-urls", "https://127.0.0.1:2379",
        "--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
        "--initial-cluster", f"{NODE}=http://127.0.0.1:2380",
        "--cert-file", pki / "etcd.crt", "--key-file", pki / "etcd.key",
        "--trusted-ca-file", pki / "ca.crt", "--client-cert-auth",
    ]  # fmt: skip


def apiserver(folder: Path, programs: Programs) -> list[str | Path]:
    """Return the command of the API server."""
    pki = folder / "pki"
    return [
        programs.kubernetes / "kube-apiserver",
        "--etcd-servers", "https://127.0.0.1:2379", "--etcd-cafile", pki / "ca.crt",
        "--etcd-certfile", pki / "admin.crt", "--etcd-keyfile", pki / "admin.key",
        "--bind-address", "0.0.0.0", "--secure-port", "6443", "--advertise-address", ADDRESS,
        "--tls-cert-file", pki / "apiserver.crt", "--tls-private-key-file", pki / "apiserver.key",
        "--client-ca-file", pki / "ca.crt",
        "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-account-key-file", pki / "accounts.pub",
        "--service-account-signing-key-file", pki / "accounts.key",
        "--service-cluster-ip-range", SERVICE_RANGE,
        "--allow-privileged",
        "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
        "--kubelet-client-certificate", pki / "kubelet-client.crt",
        "--kubelet-client-key", pki / "kubelet-client.key",
        "--kubelet-certificate-authority", pki / "ca.crt",
        "--kubelet-preferred-address-types", "InternalIP",
        "--requestheader-client-ca-file", pki / "ca.crt",
        "--proxy-client-cert-file", pki / "front-proxy.crt",
        "--proxy-client-key-file", pki / "front-proxy.key",
        "--requestheader-username-headers", "X-Remote-User",
        "--requestheader-group-headers", "X-Remote-Group",
        "--requestheader-extra-headers-prefix", "X-Remote-Extra-",
    ]  # fmt: skip


def controller_manager(folder: Path, programs: Programs) -> list[str | Path]:
    """Return the command of the controllers."""
    pki, own = folder / "pki", folder / "controller-manager.kubeconfig"
    left_out = ("service-lb-controller", "cloud-node-lifecycle-controller", "node-route-controller")
    return [
        programs.kubernetes / "kube-controller-manager",
        "--kubeconfig", own, "--authentication-kubeconfig", own, "--authorization-kubeconfig", own,
        "--bind-address", "127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
        "--root-ca-file", pki / "ca.crt", "--service-account-private-key-file", pki / "accounts.key",
        "--cluster-signing-cert-file", pki / "ca.crt", "--cluster-signing-key-file", pki / "ca.key",
        "--controllers", ",".join(["*", *(f"-{name}" for name in left_out)]),
        "--concurrent-gc-syncs", "5",
    ]  # fmt: skip


def scheduler(folder: Path, programs: Programs) -> list[str | Path]:
    """Return the command of the scheduler."""
    own = folder / "scheduler.kubeconfig"
    return [
        programs.kubernetes / "kube-scheduler",
        "--kubeconfig", own, "--authentication-kubeconfig", own, "--authorization-kubeconfig", own,
        "--bind-address", "127.0.0.1", "--leader-elect=false",
    ]  # fmt: skip


def proxy(folder: Path, programs: Programs) -> list[str | Path]:
    """Return the command of what makes services' addresses lead to pods."""
    return [
        programs.kubernetes / "kube-proxy",
        "--kubeconfig", folder / "proxy.kubeconfig", "--hostname-override", NODE, "--proxy-mode", "nftables",
        "--cluster-cidr", POD_RANGE, "--healthz-bind-address", "127.0.0.1:10256",
        "--metrics-bind-address", "127.0.0.1:10249",
        # It may not raise the machine's limit.
        "--conntrack-max-per-core", "0",
    ]  # fmt: skip


def kubelet(folder: Path, programs: Programs) -> list[str | Path]:
    """Return the command of the node's agent."""
    return [
        programs.kubernetes / "kubelet",
        "--config", folder / "kubelet.json", "--kubeconfig", folder / "node.kubeconfig",
        "--hostname-override", NODE, "--node-ip", ADDRESS, "--root-dir", folder / "kubelet",
        "--cert-dir", folder / "kubelet-pki",
        "--node-labels", "katacontainers.io/kata-runtime=true",
    ]  # fmt: skip


def containerd(folder: Path) -> list[str | Path]:
    """Return the command of the container runtime."""
    return ["containerd", "-c", folder / "containerd.toml", "-l", "info"]


def write(folder: Path, programs: Programs, cgroup: str, sandbox: str) -> None:
    """Write the files that the components read.

    Args:
        folder: The cluster's folder.
        programs: Where the programs are.
        cgroup: Name of the control groups of its pods.
        sandbox: Reference of the image of a pod's first process.
    """
    (folder / "containerd.toml").write_text(_containerd(folder, programs, sandbox))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(folder, cgroup), indent=1))
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": POD_RANGE}]]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "cni").mkdir()
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(network, indent=1))
    (folder / "resolv.conf").write_text("")


def _kubelet(folder: Path, cgroup: str) -> dict[str, object]:
    pki = folder / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "node.crt"),
        "tlsPrivateKeyFile": str(pki / "node.key"),
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "containerRuntimeEndpoint": f"unix://{folder / 'containerd.sock'}",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "failSwapOn": False,
        "resolvConf": str(folder / "resolv.conf"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "maxPods": 200,
        "registerNode": True,
        "syncFrequency": "5s",
        "nodeStatusUpdateFrequency": "5s",
        "cpuManagerPolicy": "none",
    }


def _containerd(folder: Path, programs: Programs, sandbox: str) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    runtimes = f"[{cri}.containerd.runtimes"
    text = f"""\
version = 2
root = "{folder}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd-opt"
[{cri}]
  sandbox_image = "{sandbox}"
  enable_selinux = false
  # Where the tests' root may not lower a process's OOM score, no sandbox would start otherwise.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
[{cri}.cni]
  bin_dir = "{programs.cni}"
  conf_dir = "{folder}/cni"
[{cri}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
{runtimes}.runc]
  runtime_type = "io.containerd.runc.v2"
{runtimes}.runc.options]
  SystemdCgroup = false
"""
    for name in RUNTIME_CLASSES:
        text += f"""\
{runtimes}.{name}]
  runtime_type = "io.containerd.runc.v2"
  pod_annotations = ["io.katacontainers.*"]
{runtimes}.{name}.options]
  BinaryName = "{folder}/bin/{name}"
  SystemdCgroup = false
"""
    return text
