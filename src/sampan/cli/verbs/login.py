"""``login`` and ``logout``."""

from __future__ import annotations

import sys

from sampan.cli import terminal
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def login(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Have the engine check the login, then keep it."""
    server = credentials.server_of(arguments[0].removeprefix("https://") if arguments else "")
    user, password = options.text("username"), options.text("password")
    if options.flag("password-stdin"):
        if password:
            raise CLIError("--password and --password-stdin are mutually exclusive")
        if not user:
            raise CLIError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        cli.complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if not user or not password:
        user, password = _ask(cli, server, user, password)
    entry = {"username": user, "password": password, "serveraddress": server}
    answer = cli.client.call("POST", "/auth", json=entry) or {}
    if token := answer.get("IdentityToken"):
        entry["identitytoken"] = token
    path = credentials.store(cli.config, server, entry)
    if path:
        cli.complain(
            f"\nWARNING! Your credentials are stored unencrypted in '{path}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n"
        )
    cli.print(answer.get("Status") or "Login Succeeded")
    return 0


def _ask(cli: CLI, server: str, user: str, password: str) -> tuple[str, str]:
    if not terminal.is_terminal(0):
        raise CLIError("Error: Cannot perform an interactive login from a non TTY device")
    known = credentials.get(cli.config, server).get("username", "")
    if not user:
        shown = f" ({known})" if known else ""
        cli.write(f"Username{shown}: ")
        user = sys.stdin.readline().strip() or known
    if not user:
        raise CLIError("username is empty")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
    if not password:
        raise CLIError("password is empty")
    return user, password


def logout(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Forget a login."""
    shown = arguments[0] if arguments else credentials.HUB_SERVER
    server = credentials.server_of(shown.removeprefix("https://").removeprefix("http://"))
    if not credentials.get(cli.config, server):
        cli.print(f"Not logged in to {shown}")
        return 0
    cli.print(f"Removing login credentials for {shown}")
    credentials.erase(cli.config, server)
    return 0


LOGIN = Command(
    login,
    "[OPTIONS] [SERVER]",
    "Log in to a registry",
    (0, 1),
    (
        ("password", "p", "string", "", "Password or token (others can see it: better --password-stdin)"),
        ("password-stdin", "", "bool", False, "Read the password from stdin"),
        ("username", "u", "string", "", "User name"),
    ),
)
LOGOUT = Command(logout, "[SERVER]", "Log out from a registry", (0, 1))
