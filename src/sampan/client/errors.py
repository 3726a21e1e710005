"""What can go wrong between a client and an engine."""

from __future__ import annotations

from sampan.errors import SampanError


class ClientError(SampanError):
    """The client's own trouble: a bad address, a bad file, a broken answer."""


class ConnectFailed(ClientError):
    """No engine answers at the address. ``status`` is 503."""

    status = 503


class APIError(ClientError):
    """The engine answered with an error. ``status`` is the HTTP status, ``message`` the engine's words."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ProtocolError(ClientError):
    """The other side doesn't speak HTTP as this client understands it."""
