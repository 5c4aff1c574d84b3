# SPDX-License-Identifier: BSD-3-Clause
"""The cluster's certificates: one authority, and a key for every component."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = timedelta(days=2)
MASTERS = "system:masters"


@dataclass(frozen=True)
class Identity:
    """Somebody of the cluster with a certificate."""

    name: str
    """Name of its files."""
    common_name: str
    organisation: str = ""
    names: tuple[str, ...] = ()
    """DNS names and addresses that it serves under."""


class Authority:
    """An authority that writes what it makes into a folder.

    Args:
        folder: Where keys and certificates go; it is made, with mode 0700.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._now = datetime.now(UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster for tests")])
        usage = _usage(sign_certificates=True)
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        write_key(folder / "ca.key", self._key)

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.crt"

    def issue(self, who: Identity) -> None:
        """Make `<name>.crt` and `<name>.key`, for a client and for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, who.common_name)]
        if who.organisation:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, who.organisation))
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = self._builder(x509.Name(parts), key.public_key())
        builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if who.names:
            names = x509.SubjectAlternativeName([_general(name) for name in who.names])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        (self.folder / f"{who.name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
        write_key(self.folder / f"{who.name}.key", key)

    def signing_key(self, name: str) -> None:
        """Make a key that signs service accounts' tokens: `<name>.key` and `<name>.pub`."""
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(self.folder / f"{name}.key", key)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / f"{name}.pub").write_bytes(public)

    def kubeconfig(self, path: Path, server: str, *, user: str = "", token: str = "") -> Path:
        """Write a kubeconfig for somebody with a certificate or with a token."""
        if token:
            credentials = {"token": token}
        else:
            credentials = {
                "client-certificate": str(self.folder / f"{user}.crt"),
                "client-key": str(self.folder / f"{user}.key"),
            }
        cluster = {"server": server, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "user", "user": credentials}],
            "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
            "current-context": "context",
        }
        path.touch(mode=0o600)
        # JSON is YAML.
        path.write_text(json.dumps(content, indent=1))
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=self._name, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(self._now - timedelta(hours=1)).not_valid_after(self._now + LIFE)


def identities(node: str, addresses: Sequence[str], service: str) -> list[Identity]:
    """Return everybody who has a certificate.

    Args:
        node: The node's name.
        addresses: The node's addresses.
        service: The address of the API's service.
    """
    api = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    return [
        Identity("apiserver", "kube-apiserver", names=(*api, "localhost", "127.0.0.1", service, *addresses)),
        Identity("admin", "admin", MASTERS),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("proxy", "system:kube-proxy"),
        Identity("node", f"system:node:{node}", "system:nodes", (node, *addresses)),
        Identity("kubelet-client", "apiserver-kubelet-client", MASTERS),
        Identity("etcd", "etcd", names=("localhost", "127.0.0.1")),
        Identity("front-proxy", "front-proxy-client"),
    ]


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key with mode 0600."""
    path.touch(mode=0o600)
    # The form that Kubernetes reads service accounts' keys in.
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
