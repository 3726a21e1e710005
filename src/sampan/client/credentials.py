"""Registry logins: kept in config.json or by a credential helper (docker-credential-*)."""

from __future__ import annotations

from sampan import jsontext
from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.client.config import Config

HUB_SERVER = "https://index.docker.io/v1/"
TOKEN_USER = "<token>"


def server_of(domain: str) -> str:
    """The key that logins of a registry are kept under."""
    return HUB_SERVER if domain in ("docker.io", "index.docker.io", "") else domain


def headers(config: Config, domain: str) -> dict[str, str]:
    """``X-Registry-Auth`` for a registry; nothing when there is no login."""
    login = get(config, server_of(domain))
    return {"X-Registry-Auth": encode(login)} if login else {}


def all_headers(config: Config) -> dict[str, str]:
    """``X-Registry-Config`` with every login, for builds."""
    servers = {*_environment(), *config.table("auths"), *config.table("credHelpers")}
    if store := config.text("credsStore"):
        servers |= jsontext.loads(_run(f"docker-credential-{store}", "list", "") or "{}").keys()
    found = {server: login for server in sorted(servers) if (login := get(config, server))}
    return {"X-Registry-Config": encode(found)} if found else {}


def encode(document: object) -> str:
    """URL-safe base64 of JSON, as the engine reads it."""
    import binascii

    text = binascii.b2a_base64(jsontext.dumps(document).encode(), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


def get(config: Config, server: str) -> dict[str, str]:
    """A registry's login: username, password or identitytoken, serveraddress. Empty when there is none.

    The environment (``DOCKER_AUTH_CONFIG``) comes before the helper and the file, as with Docker's client.
    """
    entry = _of_server(_environment(), server)
    if entry is None:
        if helper := _helper(config, server):
            return _ask(helper, server)
        entry = _of_server(config.table("auths"), server)
    if not isinstance(entry, dict):
        return {}
    login = {str(key): str(value) for key, value in entry.items() if key != "auth" and value}
    if entry.get("auth"):
        import binascii

        try:
            user, _, password = binascii.a2b_base64(entry["auth"]).decode().partition(":")
        except (ValueError, UnicodeDecodeError):
            raise ClientError(
                f"config.json: the login of {server} is not base64",
                hint=f"Log in again: sampan login {server}",
            ) from None
        login.update(username=user, password=password.rstrip("\0"))
    if login:
        login["serveraddress"] = server
    return login


def _of_server(entries: dict[str, Any], server: str) -> object:
    """The entry of a server, None for none. Old files keep URLs as keys."""
    wanted = _host(server)
    return entries.get(server) or next((one for key, one in entries.items() if _host(key) == wanted), None)


def _environment() -> dict[str, Any]:
    """The logins in ``DOCKER_AUTH_CONFIG``: JSON as in config.json, for jobs that have no file."""
    import os

    text = os.environ.get("DOCKER_AUTH_CONFIG", "")
    if not text:
        return {}
    try:
        found = jsontext.loads(text)["auths"]
        return {str(server): entry for server, entry in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ClientError(
            "DOCKER_AUTH_CONFIG can't be read",
            hint='It should be {"auths": {"REGISTRY": {"auth": "base64 of USER:PASSWORD"}}}.',
        ) from None


def _host(server: str) -> str:
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def store(config: Config, server: str, login: dict[str, str]) -> str:
    """Keep a login; returns the file's path when it is kept there in the clear, "" when a helper has it."""
    if helper := _helper(config, server):
        token = login.get("identitytoken", "")
        _run(
            helper,
            "store",
            jsontext.dumps(
                {
                    "ServerURL": server,
                    "Username": TOKEN_USER if token else login["username"],
                    "Secret": token or login["password"],
                }
            ),
        )
        return ""
    entry: dict[str, str] = {}
    if login.get("identitytoken"):
        entry["identitytoken"] = login["identitytoken"]
    pair = f"{login['username']}:{'' if entry else login['password']}"
    import binascii

    entry["auth"] = binascii.b2a_base64(pair.encode(), newline=False).decode()
    config.data.setdefault("auths", {})[server] = entry
    config.save()
    return config.path


def erase(config: Config, server: str) -> bool:
    """Forget a login; whether there was one."""
    if helper := _helper(config, server):
        _run(helper, "erase", server)
        return True
    if server not in config.table("auths"):
        return False
    del config.data["auths"][server]
    config.save()
    return True


def _helper(config: Config, server: str) -> str:
    name = config.table("credHelpers").get(server) or config.text("credsStore")
    return f"docker-credential-{name}" if name else ""


def _ask(helper: str, server: str) -> dict[str, str]:
    try:
        answer = jsontext.loads(_run(helper, "get", server))
    except ClientError as error:
        if "credentials not found" in error.message:
            return {}
        raise
    login = {"serveraddress": server}
    if answer.get("Username") == TOKEN_USER:
        login["identitytoken"] = answer["Secret"]
    else:
        login.update(username=answer["Username"], password=answer["Secret"])
    return login


def _run(helper: str, verb: str, text: str) -> str:
    import subprocess

    try:
        result = subprocess.run([helper, verb], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ClientError(
            f"error getting credentials - err: exec: {helper!r}: executable file not found in $PATH",
            hint="Install it, or take credsStore and credHelpers out of config.json.",
        ) from None
    if result.returncode:
        words = (result.stdout or result.stderr).strip()
        raise ClientError(f"error getting credentials - err: exit status {result.returncode}, out: `{words}`")
    return result.stdout
