"""Who may do what: a file of users as ``htpasswd -B`` writes it, Basic authentication or tokens.

With users, everything needs a password (Basic). With ``anonymous`` reading needs none; then clients are sent
to a token server, this one, as Docker's client shows no password and tries no reading where Basic is asked:
https://distribution.github.io/distribution/spec/auth/token/. Tokens are ours alone: signed with a key that
lives as long as the process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
import time
from pathlib import Path

import msgspec

from sampan import errors
from sampan.api.query import Query, parse_query
from sampan.kernel import crypt
from sampan.registryd.connection import Reply, Request
from sampan.registryd.refusals import Refusal

_KNOWN = ("$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$gy$", "$7$")
_REMEMBERED = 300.0  # seconds for which a right password needn't be hashed again
_MOST_REMEMBERED = 10_000
_AT_ONCE = 2  # hashes being calculated: a flood of wrong passwords must not take all processors
_TOKEN_LIFE = 300
_FORM = 16 << 10  # bytes
_DUMMY = b"$2y$05$abcdefghijklmnopqrstuuOIRWkJkn5lyIXWYBXV0fu7LL7D6zYrG"
SERVICE = "sampan-registry"


class Users:
    """A file of ``name:hash`` lines."""

    def __init__(self, path: Path) -> None:
        """InvalidParameter for a file that can't be used, naming the line."""
        self.path = path
        self._key = os.urandom(32)
        self._slots = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._right: dict[bytes, float] = {}
        self._users: dict[str, bytes] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again (InvalidParameter; the old users stay then)."""
        try:
            lines = self.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.InvalidParameter(f"can't read the users of {self.path}: {error}") from error
        if not crypt.available():
            raise errors.SystemFailure("passwords need libcrypt.so.1 (Debian: libcrypt1)")
        users = {}
        for number, line in enumerate(lines, 1):
            name, colon, hashed = line.strip().partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            if not colon or not name or not hashed.startswith(_KNOWN):
                raise errors.InvalidParameter(
                    f"{self.path}, line {number}: no user with a hash that can be used",
                    hint="Make it by: htpasswd -B -c FILE USER",
                )
            users[name] = hashed.encode()
        with self._lock:
            self._users, self._right = users, {}

    def knows(self, name: str, password: str) -> bool:
        """Whether this is the user's password."""
        hashed = self._users.get(name)
        proof = f"{name}\0{password}".encode("utf-8", "surrogateescape")
        mark = hmac.digest(self._key, proof + b"\0" + (hashed or b""), "sha256")
        now = time.monotonic()
        with self._lock:
            if self._right.get(mark, 0) > now:
                return True
        with self._slots:
            # an unknown name takes as long as a known one
            right = crypt.matches(password.encode("utf-8", "surrogateescape"), hashed or _DUMMY)
        if not right or hashed is None:
            return False
        with self._lock:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right[mark] = now + _REMEMBERED
        return True


class Access:
    """Lets requests through, or asks who they are. Without users everybody may do everything."""

    token_path = "/v2/_sampan/token"

    def __init__(self, users: Users | None = None, *, anonymous: bool = False) -> None:
        self._users, self._anonymous = users, anonymous and users is not None
        self._key = os.urandom(32)

    def check(self, request: Request) -> None:
        """Set ``request.user`` (UNAUTHORIZED)."""
        if self._users is None:
            return
        kind, _, value = request.headers.get("authorization").partition(" ")
        user: str | None = ""
        if kind.lower() == "basic":
            user = self._basic(value) or None
        elif kind:
            user = self._of_token(value.strip()) if kind.lower() == "bearer" and self._anonymous else None
        if not user and not (user is not None and self._may_everybody(request, shown=bool(kind))):
            raise self._challenge(request, _fault(kind, user))
        request.user = user or ""

    def _may_everybody(self, request: Request, *, shown: bool) -> bool:
        """Whether this needs no password. Clients learn where tokens are from ``/v2/``, without one."""
        if not self._anonymous or request.method not in ("GET", "HEAD"):
            return False
        return shown or request.path != "/v2/"

    def _basic(self, value: str) -> str:
        """The user whose right password this is, or ""."""
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode("utf-8", "surrogateescape")
        except (binascii.Error, ValueError):
            return ""
        name, _, password = decoded.partition(":")
        if len(decoded) > 1024 or self._users is None:
            return ""
        return name if self._users.knows(name, password) else ""

    def _challenge(self, request: Request, fault: str) -> Refusal:
        scheme = f'Basic realm="{SERVICE}"'
        if self._anonymous:
            proto = request.headers.get("x-forwarded-proto") or ("https" if request.secure else "http")
            host = "".join(c for c in request.headers.get("host") if c.isalnum() or c in ".:-[]")
            place = f"{'https' if proto == 'https' else 'http'}://{host}{self.token_path}"
            scheme = f'Bearer realm="{place}",service="{SERVICE}"'
            scope = _scope(request)
            scheme += f',scope="{scope}"' if scope else ""
            scheme += f',error="{fault}"' if fault else ""
        return Refusal("UNAUTHORIZED", "authentication required", headers={"WWW-Authenticate": scheme})

    # -- tokens -----------------------------------------------------------------------------------------

    def token(self, request: Request) -> Reply:
        """The token server: for a password a user's token, for none one to read with.

        ``GET`` with the password as Basic authentication, or ``POST`` of a form (OAuth 2; containerd begins so).
        """
        if not self._anonymous:
            raise Refusal("UNSUPPORTED", "this registry gives no tokens: it asks for passwords (Basic)")
        if request.method not in ("GET", "POST"):
            raise Refusal("UNSUPPORTED", "tokens are given by GET and POST", headers={"Allow": "GET, POST"})
        kind, _, value = request.headers.get("authorization").partition(" ")
        name = ""
        if request.method == "POST":
            name = self._by_form(request)
        elif kind:
            name = self._basic(value) if kind.lower() == "basic" else ""
            if not name:
                raise _wrong_password()
        token = self._make_token(name)
        body = {"token": token, "access_token": token, "expires_in": _TOKEN_LIFE}
        return Reply(
            200, {"Content-Type": "application/json", "Cache-Control": "no-store"}, msgspec.json.encode(body)
        )

    def _by_form(self, request: Request) -> str:
        """The user whose password a form has (RFC 6749 section 4.3). Tokens to refresh are never given."""
        form = Query(parse_query(request.body.read(_FORM).decode("utf-8", "replace")))
        if form.get("grant_type") != "password" or self._users is None:
            raise Refusal("UNSUPPORTED", "the only grant_type is password", status=400)
        name, password = form.get("username"), form.get("password")
        if not self._users.knows(name, password):
            raise _wrong_password()
        return name

    def _make_token(self, name: str) -> str:
        payload = msgspec.json.encode([name, int(time.time()) + _TOKEN_LIFE])
        return base64.urlsafe_b64encode(self._sign(payload) + payload).decode()

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, hashlib.sha256)

    def _of_token(self, token: str) -> str | None:
        """The user that a token was given to, "" for one to read with; None when it isn't ours, or too old."""
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii", "strict"))
        except (binascii.Error, ValueError):
            return None
        signature, payload = raw[:32], raw[32:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            return None
        name, until = msgspec.json.decode(payload, type=tuple[str, int])
        return name if until > time.time() else None


def _wrong_password() -> Refusal:
    fields = {"WWW-Authenticate": f'Basic realm="{SERVICE}"'}
    return Refusal("UNAUTHORIZED", "incorrect username or password", headers=fields)


def _fault(kind: str, user: str | None) -> str:
    """What is wrong with a token that was shown (RFC 6750 section 3.1): it tells clients not to try again."""
    if kind.lower() != "bearer":
        return ""
    return "invalid_token" if user is None else "insufficient_scope"


def _scope(request: Request) -> str:
    """What a token would have to allow: ``repository:name:pull,push``."""
    for mark in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        if request.path.startswith("/v2/") and mark in request.path:
            name = request.path[4 : request.path.rindex(mark)]
            actions = "pull" if request.method in ("GET", "HEAD") else "pull,push"
            return f"repository:{name}:{actions}".replace('"', "")[:300]
    return ""
