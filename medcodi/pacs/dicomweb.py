"""A server behind DICOMweb: STOW-RS to store, QIDO-RS to search, WADO-RS to retrieve; by dicomweb-client."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from medcodi.errors import MedCoDiError, first_line
from medcodi.pacs.servers import Address, Instance, ServerError, UnreachableError, is_busy, is_stored, refusal
from medcodi.pacs.tls import Tls, probe, tls_error

if TYPE_CHECKING:
    from pydicom import Dataset
    from requests import HTTPError, Response, Session

TOKEN = "MEDCODI_DICOM_TOKEN"  # environment variable with a bearer token
_TIMEOUT_S = (10.0, 120.0)  # to connect, and between two packets of an answer
_BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
_LOCKED_OUT = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_NOT_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
_EXPECTED = "the root of a DICOMweb server, such as https://HOST/dicom-web"
_MAX_ANSWER = 200  # characters of a server's own words in a message


class DicomWebServer:
    """One DICOMweb server. Credentials are those of ``~/.netrc``, or a bearer token in ``MEDCODI_DICOM_TOKEN``."""

    def __init__(self, address: Address, tls: Tls = Tls()) -> None:
        from dicomweb_client import DICOMwebClient

        tls.check(address)
        self._tls = tls
        self.address = address
        # The whole request in one piece, because some servers take no chunks.
        self._client = DICOMwebClient(address.text, session=_session(tls), chunk_size=2**31)
        self._client.set_http_retry_params(retry=False)  # the outbox tries again, and writes down what has arrived

    def store(self, instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
        """Store the instances of one study in one request (PS3.18 10.5)."""
        import pydicom
        from requests import HTTPError

        # One request; a refused one may say in its body what holds of each instance.
        datasets = [pydicom.dcmread(instance.path) for instance in instances]
        with self._calling():
            try:
                answer = self._client.store_instances(datasets)
            except HTTPError as error:
                self._raise_for_all(error)
                answer = _answer(error)
                if answer is None:  # refused for a reason that the body does not give by instance
                    words = _words(error)
                    return iter([(instance.sop_instance, words) for instance in instances])
        return self._outcomes(instances, answer)

    def _outcomes(self, instances: Sequence[Instance], answer: Dataset) -> Iterator[tuple[str, str]]:
        """Answers for each instance in a Store Instances Response (PS3.18 Table 10.5.3-1)."""
        stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or []}
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", 0x0110))
            for item in answer.get("FailedSOPSequence") or []
            if "ReferencedSOPInstanceUID" in item
        }
        for instance in instances:
            uid, status = instance.sop_instance, failed.get(instance.sop_instance)
            if uid in stored or (status is not None and is_stored(status)):
                yield uid, ""
            elif status is None:
                yield uid, "its answer does not name the instance"
            elif not is_busy(status):
                yield uid, refusal(status)
        # Last: what holds of the others has been said.
        if busy := [status for status in failed.values() if is_busy(status)]:
            raise self._unreachable(refusal(busy[0]), answered=True)

    def instances(self, study: str) -> list[Dataset]:
        """The instances of a study as QIDO-RS lists them: SOP class, UIDs, perhaps the modality.

        Raises:
            UnreachableError: If the server is away.
            ServerError: If it refuses.
        """
        from pydicom import Dataset
        from requests import HTTPError

        with self._calling():
            try:
                rows = self._client.search_for_instances(study_instance_uid=study)
            except HTTPError as error:
                self._raise_for_all(error)
                raise self._refused(f"does not list the study {study}", error) from None
            return [Dataset.from_json(row) for row in rows]

    def retrieve(self, study: str, series: str, instance: str) -> Dataset:
        """One instance, by WADO-RS; as :meth:`instances` raises."""
        from requests import HTTPError

        with self._calling():
            try:
                return self._client.retrieve_instance(study, series, instance)
            except HTTPError as error:
                self._raise_for_all(error)
                raise self._refused(f"does not give the instance {instance}", error) from None

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turn what requests, the client and pydicom raise into errors that say what to do."""
        from pydicom.errors import InvalidDicomError
        from requests import RequestException, Timeout

        try:
            yield
        except MedCoDiError:
            raise
        except (ValueError, KeyError, IndexError, AttributeError, InvalidDicomError) as error:
            raise ServerError(
                f"the answer of {self.address.text} cannot be read: {first_line(error)[:_MAX_ANSWER]}",
                expected=_EXPECTED,
                fix="check that the address is the root of DICOMweb, not of a web page",
            ) from None
        except RequestException as error:
            if (refused := tls_error(self.address, error)) is not None:
                raise refused from None
            if self.address.encrypted and not isinstance(error, Timeout):
                # A server that hung up may have said why; its certificate is not judged again.
                context = self._tls.context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                probe(self.address, context)
            # Of a connection, the system's own words; the rest names objects of libraries.
            reason = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
            raise self._unreachable(reason[1] if reason else first_line(error)[:_MAX_ANSWER]) from None

    def _raise_for_all(self, error: HTTPError) -> None:
        """Raise where a status is not about single instances."""
        status = _response(error).status_code
        if status in _BUSY:
            raise self._unreachable(_words(error), answered=True) from None
        if status in _LOCKED_OUT:
            raise ServerError(
                f"{self.address.text} does not let us in: {_words(error)}",
                expected="credentials that may read and store studies",
                fix=f"put user and password into ~/.netrc, or a bearer token into {TOKEN}",
            ) from None
        if status in _NOT_THERE:
            raise self._refused("lacks this service, or is no DICOMweb address", error) from None

    def _refused(self, what: str, error: HTTPError) -> ServerError:
        return ServerError(
            f"{self.address.text} {what}: {_words(error)}",
            expected=_EXPECTED,
            fix="check the address and the UID, or ask who runs the server",
        )

    def _unreachable(self, why: str, answered: bool = False) -> UnreachableError:
        error = UnreachableError(
            f"{self.address.text} {'cannot serve this now' if answered else 'cannot be reached'}: {why}",
            expected="a DICOMweb server that answers",
            fix="check its disk and its log" if answered else "check the address and the network, and that it runs",
        )
        error.answered = answered
        return error


def _session(tls: Tls = Tls()) -> Session:
    """A session with a time limit, with our token and certificates, and without two faults of the client."""
    from requests import Session

    # Given with each request, because the environment takes precedence over what a session has.
    given = {"verify": tls.ca, "cert": tls.certificate}
    certificates = {name: str(path) for name, path in given.items() if path is not None}

    class LimitedSession(Session):
        def request(self, *args: Any, **more: Any) -> Any:
            (more.get("headers") or {}).pop("Host", None)  # the client's lacks the port
            response = super().request(*args, **{"timeout": _TIMEOUT_S, **certificates, **more})
            # The client compares the whole header, a character set included.
            kind = response.headers.get("Content-Type", "")
            if kind.startswith("application/"):
                response.headers["Content-Type"] = kind.partition(";")[0].strip()
            return response

    session = LimitedSession()
    session.headers["Accept"] = "application/dicom+json"  # of the answer to a store
    if token := os.environ.get(TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
    return session


def _response(error: HTTPError) -> Response:
    assert error.response is not None  # raised by raise_for_status
    return error.response


def _answer(error: HTTPError) -> Dataset | None:
    """Answers for each instance in the body of a refused store; None where it says nothing."""
    from pydicom import Dataset

    try:
        body = _response(error).json()
        answer = Dataset.from_json(body[0] if isinstance(body, list) else body)
    except Exception:  # HTML, XML or text of any kind
        return None
    return answer if "FailedSOPSequence" in answer or "ReferencedSOPSequence" in answer else None


def _words(error: HTTPError) -> str:
    """Status, reason and the beginning of the body of a server's answer."""
    response = _response(error)
    body = " ".join(response.text.split())[:_MAX_ANSWER]
    return f"HTTP {response.status_code} {response.reason or ''}".rstrip() + (f" ({body})" if body else "")
