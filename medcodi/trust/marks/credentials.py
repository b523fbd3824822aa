"""C2PA manifests ("content credentials"): a statement about a generated film, signed with a user's own key, in a file beside it.

``frontal.png`` gets ``frontal.c2pa``: the film keeps its bytes and hashes. Nothing is fetched: no time stamp, no revocation list, no remote
manifest. A valid manifest shows that the film is the one that was signed; whose certificate it was is shown, not judged.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medcodi import __version__
from medcodi.errors import DataError, MissingExtraError, first_line
from medcodi.storage import atomic
from medcodi.xmp import Mark

SUFFIX = ".c2pa"
_CHUNK = b"caBX"  # of a PNG that holds a manifest
_OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_A_KEY = "a private key in PEM without a password: EC (P-256, P-384, P-521), Ed25519 or RSA"
_A_CHAIN = "the certificate of that key in PEM, for e-mail protection or document signing, then those that signed it"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest as read."""

    state: str  # Valid, Trusted or Invalid; "" where it cannot be read
    description: str


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A user's key and certificates, checked: they belong together."""

    algorithm: str
    key: bytes
    certificates: bytes


def check_installed(needed_for: str = "signing") -> None:
    """Raise a MissingExtraError if c2pa-python is not installed."""
    if find_spec("c2pa") is None:
        raise MissingExtraError("c2pa-python", extra="c2pa", needed_for=needed_for)


def read_key(key: Path, certificates: Path) -> SigningKey:
    """Read a private key and its certificates.

    Raises:
        DataError: If a file is missing, the key is none, has a password, or is not that of the first certificate.
        MissingExtraError: If c2pa-python is not installed.
    """
    check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    key_bytes, chain_bytes = _read(key, _A_KEY), _read(certificates, _A_CHAIN)
    try:
        private = load_pem_private_key(key_bytes, password=None)
        algorithm = _algorithm(private)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError: it has a password
        raise DataError(
            f"{key} is no key that C2PA signs with: {first_line(error)}", expected=_A_KEY, fix="give your signing key"
        ) from None
    try:
        chain = load_pem_x509_certificates(chain_bytes)
    except ValueError as error:
        raise DataError(
            f"{certificates} holds no certificates: {first_line(error)}", expected=_A_CHAIN, fix="give the whole chain"
        ) from None
    # The first certificate must be that of the key.
    own, certified = (
        each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in (private.public_key(), chain[0].public_key())
    )
    if own != certified:
        raise DataError(
            f"the first certificate of {certificates} is not that of {key}", expected=_A_CHAIN, fix="change their order"
        )
    return SigningKey(algorithm=algorithm, key=key_bytes, certificates=chain_bytes)


def _algorithm(private: Any) -> str:
    """The name that C2PA has for the signatures of a key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    raise ValueError(f"a {type(private).__name__.replace('PrivateKey', '')} key of {private.key_size} bits")


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", expected=expected, fix="check the path") from None


def manifest_path(film: Path) -> Path:
    """The file of a film's manifest."""
    return film.with_suffix(SUFFIX)


def sign(films: Sequence[tuple[Path, Mark]], key: SigningKey) -> list[Path]:
    """Write the manifest of each film beside it; none is replaced.

    Raises:
        DataError: If a manifest exists, or the certificates are none that C2PA accepts.
    """
    from c2pa import Builder, C2paError, C2paSignerInfo, Context, Settings, Signer

    if existing := [manifest_path(film) for film, _ in films if manifest_path(film).exists()]:
        raise DataError(f"{existing[0]} exists", expected="films without a manifest", fix="move it away first")
    written = []
    for film, mark in films:
        try:
            signer = Signer.from_info(C2paSignerInfo(key.algorithm, key.certificates, key.key, None))
            with Context(Settings.from_dict(_OFFLINE)) as context, signer, film.open("rb") as source:
                builder = Builder(_statement(film, mark), context)  # closed by its one signature
                builder.set_no_embed()
                manifest = builder.sign(signer, "image/png", source)
        except C2paError as error:
            raise DataError(
                f"{film} cannot be signed: {first_line(error)}", expected=_A_CHAIN, fix="another certificate"
            ) from None
        atomic.write_bytes(manifest_path(film), manifest, error=DataError)
        written.append(manifest_path(film))
    return written


def _statement(film: Path, mark: Mark) -> str:
    """The signed statement: that a model made the film, and which."""
    action = {
        "action": "c2pa.created",
        "digitalSourceType": mark.source_type,
        "softwareAgent": {"name": mark.system, "version": mark.version},
    }
    return json.dumps(
        {
            "claim_generator_info": [{"name": "MedCoDi", "version": __version__}],
            "title": film.name,
            "format": "image/png",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
    )


def read(film: Path) -> Manifest | None:
    """Read and check the manifest beside a film, or the one in it; None without one."""
    beside = manifest_path(film)
    if not beside.is_file() and _CHUNK not in film.read_bytes():
        return None
    if find_spec("c2pa") is None:
        return Manifest(state="", description="a manifest, not checked: pip install 'medcodi[c2pa]'")
    from c2pa import C2paError, Context, Reader, Settings

    data = beside.read_bytes() if beside.is_file() else None
    kind = mimetypes.guess_type(film.name)[0] or "image/png"
    try:
        with (
            Context(Settings.from_dict(_OFFLINE)) as context,
            film.open("rb") as stream,
            Reader(kind, stream, data, context) as reader,
        ):
            state = str(reader.get_validation_state())
            signature = (reader.get_active_manifest() or {}).get("signature_info", {})
    except C2paError as error:
        return Manifest(state="Invalid", description=f"a manifest that cannot be read: {first_line(error)}")
    signer = signature.get("common_name") or signature.get("issuer") or "an unknown signer"
    says = {"Valid": "signed by {}, not on a trust list", "Trusted": "signed by {}, on the trust list"}
    unchanged = says.get(state, "by {}: the film or the manifest was changed")
    return Manifest(state=state, description=unchanged.format(signer))
