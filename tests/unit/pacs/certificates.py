"""A certificate authority in a folder, and what it signs: servers of any name and age, and clients; RSA, which Orthanc takes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """One authority; ``ca`` is its certificate as PEM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        now = datetime.now(UTC)
        certificate = (
            self._builder(self.name, self.key, now - DAY, now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, SHA256())
        )
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: rsa.RSAPrivateKey, start: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    def sign(self, name: str, host: str = "127.0.0.1", *, days: tuple[int, int] = (-1, 1), password: str = "") -> Path:
        """A certificate of a host, with its key, in one PEM file; valid between two days from now."""
        key = rsa.generate_private_key(65537, 2048)
        names = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        now, authority = datetime.now(UTC), self.key.public_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key, now + days[0] * DAY, now + days[1] * DAY)
            .add_extension(x509.SubjectAlternativeName([names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
            .sign(self.key, SHA256())
        )
        lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        path = self.folder / f"{name}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
        return path

    def server(self, certificate: Path, *, clients: bool = False) -> ssl.SSLContext:
        """Settings of a server with this certificate; with ``clients``, it takes those alone that the authority has signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if clients:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
