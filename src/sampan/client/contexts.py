"""Docker contexts: named engines in ``~/.docker/contexts`` (meta/<sha256 of the name>/meta.json, tls/…)."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.client import endpoint as endpoints
from sampan.client.endpoint import Endpoint, TLSFiles
from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "default"
TLS_NAMES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


class Context:
    """One named engine."""

    def __init__(self, name: str, meta: dict[str, Any], folder: str) -> None:
        self.name = name
        self.meta = meta
        self.folder = folder

    @property
    def docker(self) -> dict[str, Any]:
        """Its Engine API endpoint: Host, SkipTLSVerify."""
        found: dict[str, Any] = (self.meta.get("Endpoints") or {}).get("docker") or {}
        return found

    @property
    def host(self) -> str:
        """The engine's address."""
        return str(self.docker.get("Host") or "")

    @property
    def description(self) -> str:
        """What its maker wrote about it."""
        return str((self.meta.get("Metadata") or {}).get("Description") or "")

    @property
    def meta_folder(self) -> str:
        """Where meta.json lies."""
        return os.path.join(self.folder, "meta", digest(self.name))

    @property
    def tls_folder(self) -> str:
        """Where its certificates lie."""
        return os.path.join(self.folder, "tls", digest(self.name))

    def tls_files(self) -> dict[str, str]:
        """The certificates that exist: kind (ca, cert, key) to path."""
        folder = os.path.join(self.tls_folder, "docker")
        paths = {kind: os.path.join(folder, name) for kind, name in TLS_NAMES.items()}
        return {kind: path for kind, path in paths.items() if os.path.exists(path)}

    def endpoint(self) -> Endpoint:
        """The address with its certificates, ready to dial."""
        endpoint = endpoints.parse(self.host or endpoints.default_url())
        files = self.tls_files()
        skip = bool(self.docker.get("SkipTLSVerify"))
        if endpoint.scheme == "tcp" and (files or skip):
            endpoint.tls = TLSFiles(
                files.get("ca", ""), files.get("cert", ""), files.get("key", ""), verify=not skip
            )
        return endpoint


def digest(name: str) -> str:
    """The folder name of a context."""
    import _sha256  # hashlib loads OpenSSL

    return str(_sha256.sha256(name.encode()).hexdigest())


class ContextStore:
    """All contexts below one ``.docker`` folder."""

    def __init__(self, config_folder: str) -> None:
        self.folder = os.path.join(config_folder, "contexts")

    def get(self, name: str) -> Context:
        """Read one. Raises ClientError (Docker's words) when there is none of that name."""
        path = os.path.join(self.folder, "meta", digest(name), "meta.json")
        try:
            with open(path, "rb") as file:
                meta = jsontext.loads(file.read())
        except FileNotFoundError:
            raise ClientError(
                f'context "{name}": context not found: open {path}: no such file or directory',
                hint="See the known ones with: sampan context ls",
            ) from None
        except (OSError, ValueError) as error:
            raise ClientError(f'context "{name}": {error}') from None
        return Context(name, meta, self.folder)

    def all(self) -> list[Context]:
        """Every stored context, by name (``default`` is not among them: it is the environment's)."""
        found = []
        root = os.path.join(self.folder, "meta")
        for entry in os.listdir(root) if os.path.isdir(root) else []:
            try:
                with open(os.path.join(root, entry, "meta.json"), "rb") as file:
                    meta = jsontext.loads(file.read())
                found.append(Context(str(meta["Name"]), meta, self.folder))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found, key=lambda context: context.name)

    def save(self, context: Context, files: dict[str, bytes] | None) -> None:
        """Write a context; ``files`` (kind to content) replace its certificates, None keeps them."""
        os.makedirs(context.meta_folder, mode=0o755, exist_ok=True)
        with open(os.path.join(context.meta_folder, "meta.json"), "w", encoding="utf-8") as file:
            file.write(jsontext.dumps(context.meta))
        if files is None:
            return
        remove_tree(context.tls_folder)
        folder = os.path.join(context.tls_folder, "docker")
        for kind, content in files.items():
            os.makedirs(folder, mode=0o700, exist_ok=True)
            descriptor = os.open(os.path.join(folder, TLS_NAMES[kind]), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(content)

    def remove(self, name: str) -> None:
        """Delete a context and its certificates."""
        context = self.get(name)
        remove_tree(context.meta_folder)
        remove_tree(context.tls_folder)


def remove_tree(folder: str) -> None:
    """Delete a folder of ours, if it is there."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def check_name(name: str) -> None:
    """Raises ClientError for a name that a context can't have."""
    if not name:
        raise ClientError("context name cannot be empty")
    if name == DEFAULT:
        raise ClientError('"default" is a reserved context name')
    if len(name) < 2 or not name[0].isalnum() or not _NAME_CHARACTERS.issuperset(name):
        raise ClientError(
            f'context name "{name}" is invalid, names are validated against regexp '
            '"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"'
        )
