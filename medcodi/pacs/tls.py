"""TLS to a hospital's server: which authorities are trusted, our own certificate, and what is wrong with a connection in words."""

from __future__ import annotations

import shlex
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from medcodi.pacs.servers import Address, ServerError

_HTTPS = 443  # where an address names no port
_PROBE_S = 5.0  # for a connection of the probe
_ALERT_S = 1.0  # in which a server that refuses our certificate says so; one that accepts it waits for us to speak
_UNTRUSTED = (18, 19, 20, 21)  # OpenSSL's verify codes: self-signed, or no path to a trusted authority
_NOT_YET_VALID, _EXPIRED, _WRONG_HOSTS = 9, 10, (62, 64)  # the last: of a name, of an IP address
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")  # in the server's words about our certificate


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates for ``https://`` and ``dicoms://``."""

    ca: Path | None = None  # PEM file of the authorities to trust; None: those of the system, or of REQUESTS_CA_BUNDLE
    certificate: Path | None = None  # PEM file with our certificate and its key, for a server that wants to know us

    def check(self, address: Address) -> None:
        """Read the certificates; nothing is connected.

        Raises:
            ServerError: If a file cannot be used, or the address is not encrypted.
        """
        if not address.encrypted and (self.ca or self.certificate):
            raise ServerError(
                f"certificates are given, and {address.text} is not encrypted",
                expected="dicoms://HOST:PORT/AET or https://HOST/dicom-web",
                fix="ask who runs the server for its encrypted address, or leave --dicom-ca and --dicom-cert out",
            )
        if address.encrypted:
            self.context()

    def context(self) -> ssl.SSLContext:
        """The settings of a connection: TLS 1.2 or newer, the server's certificate and name are verified."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except OSError as error:
            raise ServerError(
                f"--dicom-ca {self.ca} cannot be used: {_reason(error)}",
                expected="certificates of authorities as PEM (-----BEGIN CERTIFICATE-----)",
                fix="ask who runs the server; of a DER file: openssl x509 -inform der -in FILE -out CA.pem",
            ) from None
        if self.certificate is not None:
            try:  # an empty password, so that nobody is asked for one
                context.load_cert_chain(str(self.certificate), password="")
            except OSError as error:
                raise ServerError(
                    f"--dicom-cert {self.certificate} cannot be used: {_reason(error)}",
                    expected="one PEM file with our certificate and its key, without a password",
                    fix="cat CERTIFICATE.pem KEY.pem > CLIENT.pem; a password is removed by openssl pkey -in KEY.pem -out PLAIN.pem",
                ) from None
        return context

    @property
    def options(self) -> str:
        """The same certificates on the command line, after a blank; "" without any."""
        given = {"--dicom-ca": self.ca, "--dicom-cert": self.certificate}
        return "".join(f" {name} {shlex.quote(str(path))}" for name, path in given.items() if path is not None)


def probe(address: Address, context: ssl.SSLContext) -> None:
    """Connect, say nothing, and wait for the server's alert: pynetdicom does not say why it failed, and an alert can be lost while we write.

    Raises:
        ServerError: If the connection fails by TLS; a network that fails is no news here.
    """
    try:
        with (
            socket.create_connection((address.host, address.port or _HTTPS), timeout=_PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as encrypted,
        ):
            encrypted.settimeout(_ALERT_S)
            encrypted.recv(1)
    except OSError as error:
        if (refused := tls_error(address, error)) is not None:
            raise refused from None


def tls_error(address: Address, error: BaseException) -> ServerError | None:
    """The refusal for an error that TLS is the cause of; None: it is the network's."""
    cause = _ssl_cause(error)
    if cause is None or isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    expected = "a server whose certificate is valid, of this host, and of an authority that is trusted here"
    words, code = str(cause.reason or cause), getattr(cause, "verify_code", 0)
    if code in _UNTRUSTED:
        what = "shows a certificate of an authority that is not trusted here"
        fix = "ask who runs the server for the certificate of its authority, and give it: --dicom-ca CA.pem"
    elif code == _EXPIRED:
        what, fix = "shows a certificate that has expired", "have it renewed, and check the clock of this machine"
    elif code == _NOT_YET_VALID:
        what, fix = "shows a certificate that is not valid yet", "check the clock of this machine"
    elif code in _WRONG_HOSTS:
        what = f"shows a certificate of another host ({cause.verify_message})"  # pyright: ignore[reportAttributeAccessIssue]
        fix = "give the address with the name that is in the certificate"
    elif any(plain in words for plain in _PLAIN):
        what, expected = "does not speak TLS at this port", "a port that is encrypted"
        fix = "ask who runs the server for the encrypted port, or give dicom:// or http:// if the network is safe"
    elif any(alert in words for alert in _ALERTS) and not code:
        what, expected = f"does not take our certificate ({words.lower().replace('_', ' ')})", "a client that it knows"
        fix = "give the certificate that the server knows, with its key: --dicom-cert CLIENT.pem"
    else:
        what, fix = (
            f"fails to encrypt ({words})",
            "ask who runs the server which certificates and versions of TLS it takes",
        )
    return ServerError(f"{address.text} {what}", expected=expected, fix=fix)


def _ssl_cause(error: BaseException) -> ssl.SSLError | None:
    """The error of OpenSSL within those of the libraries above it, which wrap it as cause, reason or argument."""
    pending, seen = [error], set()
    while pending:
        each = pending.pop(0)
        if isinstance(each, ssl.SSLError):
            return each
        seen.add(id(each))
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        pending += [other for other in inner if isinstance(other, BaseException) and id(other) not in seen]
    return None


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)  # of OpenSSL: NO_CERTIFICATE_OR_CRL_FOUND
    return str(reason).lower().replace("_", " ") if reason else error.strerror or str(error)
