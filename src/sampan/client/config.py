"""The user's ``config.json`` and its folder (``~/.docker``, ``DOCKER_CONFIG``, ``--config``)."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Config:
    """``config.json`` as it stands on disk; unknown keys are kept when it is written again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "config.json")
        self.data: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: str) -> Config:
        """Read it; a missing file is an empty one. Raises ClientError when it can't be read or parsed."""
        config = cls(folder)
        try:
            with open(config.path, "rb") as file:
                data = jsontext.loads(file.read())
        except FileNotFoundError:
            return config
        except (OSError, ValueError) as error:
            raise ClientError(
                f"Error loading config file: {config.path}: {error}", hint="Mend the file or move it away."
            ) from None
        if not isinstance(data, dict):
            raise ClientError(f"Error loading config file: {config.path}: not a JSON object")
        config.data = data
        return config

    def save(self) -> None:
        """Write it through a temporary file, readable by the user only; a link to it stays a link."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        target = os.path.realpath(self.path)
        temporary = f"{target}{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(jsontext.dumps(self.data, 4).replace("    ", "\t") + "\n")
            os.rename(temporary, target)
        except OSError:
            os.unlink(temporary)
            raise

    def text(self, key: str) -> str:
        """A string property, "" when absent."""
        value = self.data.get(key, "")
        return value if isinstance(value, str) else ""

    def table(self, key: str) -> dict[str, Any]:
        """An object property; an empty one when absent."""
        value = self.data.get(key)
        return value if isinstance(value, dict) else {}

    def headers(self) -> dict[str, str]:
        """``HttpHeaders``: added to every request; headers that the client sets itself win."""
        return {str(k): str(v) for k, v in self.table("HttpHeaders").items()}

    def proxies(self, host: str) -> dict[str, str]:
        """Proxy variables for new containers and builds on ``host`` (an address), upper and lower case."""
        table = self.table("proxies")
        chosen = table.get(host) or table.get("default") or {}
        names = {
            "httpProxy": "HTTP_PROXY",
            "httpsProxy": "HTTPS_PROXY",
            "ftpProxy": "FTP_PROXY",
            "noProxy": "NO_PROXY",
            "allProxy": "ALL_PROXY",
        }
        found = {}
        for key, name in names.items():
            if value := chosen.get(key):
                found[name] = found[name.lower()] = str(value)
        return found


def default_folder() -> str:
    """``DOCKER_CONFIG`` or ``~/.docker``."""
    return os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
