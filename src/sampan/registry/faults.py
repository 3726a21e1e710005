"""Why a registry can't be reached, in the words of Go's libraries (clients match on them), and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import urllib3

from sampan import errors

_EXPIRED = frozenset((9, 10))  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (x509_vfy.h)
_OTHER_NAME = frozenset((62, 64))  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NO_TLS = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"))


def unreachable(
    method: str, url: str, error: Exception | None, host: str, places: Sequence[Path] = ()
) -> errors.SystemFailure:
    """A request that got no answer. ``places`` are the folders where certificates for hosts are looked for."""
    hint = _advice(error, host, places[0] if places else None)
    return errors.SystemFailure(f'{method.title()} "{url}": {reason(error, host)}', hint=hint)


def reason(error: Exception | None, host: str) -> str:
    """What went wrong."""
    for cause in _causes(error):
        if isinstance(cause, urllib3.exceptions.ProxyError):
            return f"proxyconnect tcp: {_inner(cause.original_error)}"
    for cause in _causes(error):
        if isinstance(cause, ConnectionRefusedError) or "refused" in str(cause).lower():
            return f"dial tcp {host.replace('localhost', '127.0.0.1')}: connect: connection refused"
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return f"dial tcp: lookup {host.partition(':')[0]}: no such host"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"x509: {_certificate(cause, host)}"
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return "http: server gave HTTP response to HTTPS client"
    return str(error)


def _inner(error: Exception) -> str:
    """An error of urllib3 in Go's words, where it is one that Go has words for."""
    refused = isinstance(error.__cause__ or error.__context__, ConnectionRefusedError)
    if isinstance(error, urllib3.exceptions.NewConnectionError) and refused:
        return f"dial tcp {error.conn.host}:{error.conn.port}: connect: connection refused"
    return str(error)


def _certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in _EXPIRED:
        return "certificate has expired or is not yet valid"
    if error.verify_code in _OTHER_NAME:
        return f"certificate is valid for other names, not {host.rpartition(':')[0] or host}"
    return f"certificate signed by unknown authority ({error.verify_message})"


def _advice(error: Exception | None, host: str, place: Path | None) -> str:
    """What helps against a certificate that isn't trusted or a proxy that doesn't serve, "" for other faults."""
    for cause in _causes(error):
        if isinstance(cause, urllib3.exceptions.ProxyError):
            return (
                "HTTP_PROXY, HTTPS_PROXY (or daemon.json's proxies) say which proxy is used, NO_PROXY for which "
                "hosts none is."
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _EXPIRED:
                return "The registry needs a new certificate, or this machine's clock is wrong."
            if cause.verify_code in _OTHER_NAME:
                return "Use a name that the certificate has, or have one made with this subjectAltName."
            return (
                f"Trust it: put its CA certificate at {place}/{host}/ca.crt, no restart is needed."
                if place
                else ""
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return "Give the registry a certificate, or list it in the engine's insecure-registries."
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from: urllib3 keeps OpenSSL's as an argument."""
    while error is not None:
        yield error
        inner = next((one for one in error.args if isinstance(one, Exception) and one is not error), None)
        error = error.__cause__ or error.__context__ or inner
