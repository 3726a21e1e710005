"""``build --ssh``: which agents a build gets, and those that are started for keys in files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import threading

from sampan.cli.errors import CLIError, FlagError
from sampan.client.agents import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.engine import Client

# ssh-agent runs this, and goes with it: when we end, however we do, its stdin ends. The agent is a child that the
# shell hasn't started: it is reaped while the shell waits for another, and left to nobody.
_KEEP = """
end() { kill "$SSH_AGENT_PID"; while kill -0 "$SSH_AGENT_PID" 2>/dev/null; do sleep 0.02 || sleep 1; done; }
ssh-add -q -- "$@" >&2 || { end; exit 1; }
echo ready
cat >/dev/null
end
"""


class Lent:
    """The agents of one build: sockets that are there, and agents of our own for key files. Close it."""

    def __init__(self, entries: list[str]) -> None:
        """``entries``: ``ID``, ``ID=SOCKET`` or ``ID=KEY[,KEY…]``. Raises CLIError for what isn't there."""
        self._own: list[tuple[subprocess.Popen[bytes], str]] = []
        self._relay: Relay | None = None
        self.sockets: dict[str, str] = {}
        try:
            for entry in entries:
                name, equals, places = entry.partition("=")
                name = name or "default"
                if name in self.sockets:
                    raise FlagError(f"invalid duplicate ID {name}", hint="Give each --ssh its own id.")
                self.sockets[name] = self._agent(name, places.split(",") if equals and places else [])
        except BaseException:
            self.close()
            raise

    def lend(self, client: Client) -> str:
        """Offer them to the engine; the name that the build's query has to give."""
        relay = self._relay = Relay(client, self.sockets)
        threading.Thread(target=relay.run, name="agents", daemon=True).start()
        return relay.name

    def close(self) -> None:
        """Take them back; agents that were started here end."""
        if self._relay is not None:
            self._relay.close()
        for process, directory in self._own:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            shutil.rmtree(directory, ignore_errors=True)
        self._own.clear()

    def _agent(self, name: str, places: list[str]) -> str:
        if not places:
            there = os.environ.get("SSH_AUTH_SOCK", "")
            if not there:
                raise CLIError(
                    "invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set",
                    hint=f"Start one with eval $(ssh-agent), or give a key: --ssh {name}=~/.ssh/id_ed25519",
                )
            places = [there]
        places = [os.path.expanduser(place) for place in places]
        if not any(_is_socket(place) for place in places):
            return self._started(places)
        if len(places) > 1:
            raise CLIError("only single socket allowed")
        return places[0]

    def _started(self, keys: list[str]) -> str:
        """An agent with these keys; ssh-add asks for a passphrase on the terminal where there is one."""
        if shutil.which("ssh-agent") is None or shutil.which("ssh-add") is None:
            raise CLIError("keys in files need ssh-agent and ssh-add", hint="Install openssh-client.")
        directory = tempfile.mkdtemp(prefix="sampan-agent-")
        path = os.path.join(directory, "agent")
        process = subprocess.Popen(
            ["ssh-agent", "-a", path, "sh", "-c", _KEEP, "sh", *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._own.append((process, directory))
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise CLIError(
                f"failed to load {', '.join(keys)} into an agent",
                hint="ssh-add's own words stand above. Load the key into your agent, and use --ssh default.",
            )
        return path


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise CLIError(f"failed to stat {path}: {(error.strerror or '').lower()}") from None
