"""Downloads for ADD and for remote contexts, and git checkouts; both bounded and without surprises."""

from __future__ import annotations

import base64
import os
import posixpath
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import urllib3

from sampan.build.failure import BuildFailed
from sampan.build.worker import Fetched
from sampan.errors import InvalidParameter, Unsupported
from sampan.proxies import Proxies
from sampan.storage import digest as digests
from sampan.storage.removal import remove_tree

_PIECE = 1 << 20
MAX_DOWNLOAD = 64 << 30
"""Bytes; more is refused rather than written until the disk is full."""
GIT_TIMEOUT = 600.0
"""Seconds for one git command."""
_STOP_INTERVAL = 0.2
_TIMEOUT = urllib3.Timeout(connect=30.0, read=120.0)


def is_url(text: str) -> bool:
    """Whether a source is fetched over HTTP."""
    return text.lower().startswith(("http://", "https://"))


def is_git(text: str) -> bool:
    """Whether a source is a git repository (Docker's documentation, "Build context", "Git repositories")."""
    if text.startswith(("git://", "ssh://", "git@")):
        return True
    if not is_url(text):
        return text.startswith("github.com/")
    path = urlsplit(text).path
    return path.endswith(".git") or bool(re.search(r"\.git(#|$)", text))


def download(url: str, target: Path, headers: Mapping[str, str], stop: threading.Event) -> Fetched:
    """Get ``url`` into the new file ``target``. Blocks, until ``stop`` is set.

    Raises BuildFailed worded as Go's client would.
    """
    pool = _pool(url)
    try:
        response = pool.request("GET", url, headers=dict(headers), preload_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise BuildFailed(f'Get "{url}": {_reason(error, url)}') from error
    try:
        if response.status >= 400:
            reason = f"failed to GET {url} with status {response.status} {response.reason or ''}".strip()
            raise BuildFailed(reason, hint=_login_hint(url, headers) if response.status == 401 else "")
        digest, size = _save(response, target, url, stop)
        return Fetched(
            digest,
            size,
            _name(url, response.headers.get("content-disposition", "")),
            _modified(response.headers.get("last-modified", "")),
            response.headers.get("content-type", ""),
        )
    finally:
        response.release_conn()
        pool.clear()


def _login_hint(url: str, headers: Mapping[str, str]) -> str:
    host = urlsplit(url).hostname
    if "Authorization" in headers:
        return f"The login that a secret gives for {host} was refused."
    return (
        f"It asks for a login: sampan build --secret id=HTTP_AUTH_TOKEN_{host},src=FILE, or …_HEADER_{host}."
    )


def _pool(url: str) -> urllib3.PoolManager:
    retries = urllib3.Retry(3, redirect=10, raise_on_status=False)
    proxy = Proxies.of_environment().for_url(url)
    if proxy:
        return urllib3.ProxyManager(proxy, retries=retries, timeout=_TIMEOUT)
    return urllib3.PoolManager(retries=retries, timeout=_TIMEOUT)


def _save(
    response: urllib3.BaseHTTPResponse, target: Path, url: str, stop: threading.Event
) -> tuple[str, int]:
    state, size = digests.hasher(), 0
    try:
        with open(target, "xb") as file:
            for piece in response.stream(_PIECE, decode_content=False):
                if stop.is_set():
                    raise BuildFailed(f"download of {url} stopped")
                size += len(piece)
                if size > MAX_DOWNLOAD:
                    raise BuildFailed(f"{url} is larger than {MAX_DOWNLOAD >> 30} GiB")
                state.update(piece)
                file.write(piece)
    except urllib3.exceptions.HTTPError as error:
        raise BuildFailed(f'Get "{url}": unexpected EOF') from error
    return state.hexdigest(), size


def _reason(error: Exception, url: str) -> str:
    """A connection error in Go's words, which clients and people know."""
    text = str(error)
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    if "refused" in text:
        return f"dial tcp {address}: connect: connection refused"
    if "Name or service not known" in text or "resolve" in text.lower():
        return f"dial tcp: lookup {parts.hostname}: no such host"
    if "timed out" in text.lower():
        return f"dial tcp {address}: i/o timeout"
    return text


def _name(url: str, disposition: str) -> str:
    if disposition:
        message = Message()
        message["content-disposition"] = disposition
        named = message.get_filename()
        if named and posixpath.basename(named) not in ("", ".", ".."):
            return posixpath.basename(named)
    return posixpath.basename(unquote(urlsplit(url).path))


def _modified(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


KNOWN_HOSTS = "GIT_SSH_KNOWN_HOSTS"
"""The secret with the keys of ssh servers, as in ``~/.ssh/known_hosts``."""
HOST_KEYS = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
"""ssh with the keys and settings of whoever runs the engine, for remote contexts, as dockerd has it."""


def known_hosts(secrets: Mapping[str, bytes], directory: Path) -> Path | None:
    """A file in ``directory`` with the servers' keys of the client's secret `KNOWN_HOSTS`, None without it."""
    data = secrets.get(KNOWN_HOSTS)
    if data is None:
        return None
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "known_hosts"
    path.write_bytes(data)
    return path


def agent_keys(path: Path, known: Path | None) -> dict[str, str]:
    """ssh with an agent's keys alone. Only servers of the file ``known`` and of the machine's
    ``/etc/ssh/ssh_known_hosts`` are talked to; without the first, one that the second doesn't know is taken on
    trust, as by BuildKit, and only one that it knows otherwise is refused.
    """
    trust = "accept-new" if known is None else "yes"
    options = (
        *("BatchMode=yes", "IdentityFile=none", "ForwardAgent=no", "LogLevel=ERROR"),
        *(f"StrictHostKeyChecking={trust}", f"UserKnownHostsFile={known or '/dev/null'}"),
    )
    command = "ssh -F /dev/null " + " ".join(f"-o {option}" for option in options)
    return {"GIT_SSH_COMMAND": command, "SSH_AUTH_SOCK": str(path)}


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository, the ref to check out ("" for the default branch), and a directory in it. ``commit``: what the
    ref has to be (a beginning); ``keep``: whether ``.git`` stays, None where the address doesn't say.
    """

    repository: str
    ref: str
    subdirectory: str
    commit: str = ""
    keep: bool | None = None
    submodules: bool = True

    @property
    def over_ssh(self) -> bool:
        """Whether ssh(1) would be asked, with the keys of whoever runs the engine."""
        text = self.repository
        return text.startswith("ssh://") or ("://" not in text and ":" in text)


def parse_git(text: str) -> GitSource:
    """``URL[#ref[:dir]]``, or ``URL?ref=…&subdir=…``. Raises InvalidParameter for what can't be one."""
    address, _, fragment = text.partition("#")
    url, _, query = address.partition("?")
    wanted = _query(query)
    ref, _, subdirectory = fragment.partition(":")
    for key, prefix in (("ref", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if key in wanted:
            if ref:
                raise InvalidParameter(f"{key} conflicts with {ref} in {text}")
            ref = prefix + wanted[key]
    subdirectory = wanted.get("subdir", subdirectory)
    commit = wanted.get("commit", wanted.get("checksum", ""))
    if url.startswith("github.com/"):
        url = f"https://{url}"
    if ref.startswith("-") or url.startswith("-") or "\0" in text or ".." in subdirectory.split("/"):
        raise InvalidParameter(f"invalid git reference: {text}")
    keep = _said(wanted, "keep-git-dir") if "keep-git-dir" in wanted else None
    submodules = _said(wanted, "submodules") if "submodules" in wanted else True
    return GitSource(url, ref or commit, subdirectory.strip("/"), commit, keep, submodules)


def _query(text: str) -> dict[str, str]:
    """What stands behind the ``?`` of a repository's address, each key once."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in ("ref", "tag", "branch", "subdir", "commit", "checksum", "keep-git-dir", "submodules"):
            raise InvalidParameter(f'unexpected query "{key}"')
        if not value or key in found:
            raise InvalidParameter(f'query "{key}" has {"multiple values" if value else "no value"}')
        found[key] = value
    return found


def _said(wanted: Mapping[str, str], key: str) -> bool:
    if wanted[key].lower() not in ("true", "1", "false", "0"):
        raise InvalidParameter(f'invalid value "{wanted[key]}" of query "{key}"')
    return wanted[key].lower() in ("true", "1")


def checkout(
    source: GitSource,
    target: Path,
    checksum: str,
    keep: bool,
    stop: threading.Event,
    credentials: Mapping[str, str] | None = None,
    ssh: Mapping[str, str] | None = None,
) -> tuple[Path, str]:
    """Check ``source`` out below ``target``: the directory asked for, and the commit. Blocks, until ``stop``.

    Hooks and local protocols are off, no configuration but the fixed one is read (least of all one that the
    repository brings along), submodules come along, and file modes are those that git keeps.
    ``credentials`` are git settings by name (`git_login`), which no other process sees; ``ssh`` says whose keys
    ssh uses (`HOST_KEYS`, `agent_keys`), without it there is no ssh, for submodules either.
    """
    if shutil.which("git") is None:
        raise Unsupported("git is not installed on this machine", hint="Install the package git.")
    target.mkdir(mode=0o755)
    git = _Git(target, credentials or {}, ssh or {}, stop)
    git.do("init", "-q")
    git.do("remote", "add", "origin", source.repository)
    commit = _fetched(git, source.ref)
    for wanted in (checksum, source.commit):
        if not commit.startswith(wanted.lower()):
            raise BuildFailed(f"expected checksum to match {wanted}, got {commit}")
    git.do("checkout", "-q", "--detach", commit)
    if source.submodules:
        _add_submodules(git)
    return _asked_for(source, target, keep if source.keep is None else source.keep), commit


def _add_submodules(git: _Git) -> None:
    if (git.directory / ".gitmodules").is_file():
        shallow = git.attempt("submodule", "update", "--init", "--recursive", "--depth=1", "-q")
        if shallow is not None:
            git.do("submodule", "update", "--init", "--recursive", "-q")


def _asked_for(source: GitSource, target: Path, keep: bool) -> Path:
    """The directory of the checkout in ``target`` that was asked for; without ``.git`` unless it is to be kept."""
    top = target / source.subdirectory if source.subdirectory else target
    if not top.is_dir() or not top.resolve().is_relative_to(target.resolve()):
        raise BuildFailed(f"{source.subdirectory}: no such directory in {source.repository}")
    if not keep:
        for path in target.rglob(".git"):
            remove_tree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()
    return top


def _fetched(git: _Git, ref: str) -> str:
    """Fetch as little as gives ``ref`` (a branch, tag or commit; "" the default branch); its commit."""
    wanted = ref or "HEAD"
    # A server of plain files can't give a part of the history, and few give a commit by its name.
    for depth in [["--depth=1"], []]:
        if git.attempt("fetch", "-q", *depth, "origin", wanted) is None:
            return git.commit("FETCH_HEAD") or _unresolved(ref)
    failed = git.attempt("fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    if failed is not None:
        asked = "could not read Username" in failed or "Authentication failed" in failed
        raise BuildFailed(f"git fetch: {failed}", hint=git.login_hint() if asked else "")
    return git.commit(f"origin/{ref}") or git.commit(ref) or _unresolved(ref)


def _unresolved(ref: str) -> str:
    raise BuildFailed(f"failed to resolve git reference {ref or 'HEAD'}")


class _Git:
    """git(1) in one directory, with an environment and settings that nothing else decides."""

    def __init__(
        self, directory: Path, settings: Mapping[str, str], ssh: Mapping[str, str], stop: threading.Event
    ) -> None:
        self.directory = directory
        self.stop = stop
        self.logs_in = any(key.endswith(".extraheader") for key in settings)
        fixed = {"core.hooksPath": "/dev/null", "protocol.ext.allow": "never", "advice.detachedHead": "false"}
        self.env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:http:git:ssh" if ssh else "https:http:git",
            "LC_ALL": "C",
            **ssh,
        }
        for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
            self.env |= {key: os.environ[key] for key in (name, name.upper()) if key in os.environ}
        for number, (key, value) in enumerate({**fixed, **settings}.items()):
            self.env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
            self.env["GIT_CONFIG_COUNT"] = str(number + 1)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; killed when the build is over, or after `GIT_TIMEOUT`."""
        deadline = time.monotonic() + GIT_TIMEOUT
        with subprocess.Popen(
            ["git", *arguments],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=0o022,  # files of a checkout have the modes 644 and 755 (reference, "ADD")
        ) as process:
            while True:
                try:
                    out, err = process.communicate(timeout=_STOP_INTERVAL)
                except subprocess.TimeoutExpired:
                    if self.stop.is_set() or time.monotonic() > deadline:
                        # git has children of its own that do the talking.
                        os.killpg(process.pid, signal.SIGKILL)
                    continue
                if self.stop.is_set():
                    raise BuildFailed("git stopped")
                return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")

    def login_hint(self) -> str:
        """What to do where the server asks for a login."""
        if self.logs_in:
            return "The login that the secret gives was refused."
        return "It asks for a login: sampan build --secret id=GIT_AUTH_TOKEN,src=FILE, or GIT_AUTH_HEADER."

    def attempt(self, *arguments: str) -> str | None:
        """None when it worked, else what git said."""
        code, _, said = self.run(*arguments)
        if code == -signal.SIGKILL:
            return f"no answer within {GIT_TIMEOUT:.0f} s"
        return None if code == 0 else said.strip()

    def do(self, *arguments: str) -> None:
        """Raises BuildFailed with what git said."""
        failed = self.attempt(*arguments)
        if failed is not None:
            raise BuildFailed(f"git {arguments[0]}: {failed}")

    def commit(self, name: str) -> str:
        """The commit that ``name`` means, "" for none."""
        code, found, _ = self.run("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
        return found.strip() if code == 0 else ""


def http_login(url: str, secrets: Mapping[str, bytes]) -> dict[str, str]:
    """The header fields of the login that a secret gives for a URL's host."""
    host = urlsplit(url).hostname or ""
    header = secrets.get(f"HTTP_AUTH_HEADER_{host}")
    token = secrets.get(f"HTTP_AUTH_TOKEN_{host}")
    if header:
        return {"Authorization": header.decode().strip()}
    return {"Authorization": f"Bearer {token.decode().strip()}"} if token else {}


def git_login(source: GitSource, secrets: Mapping[str, bytes]) -> dict[str, str]:
    """git's settings with the login that a secret gives (reference, "ADD", "Private repositories"), for the
    repository's server alone: its submodules may lie elsewhere.
    """
    parts = urlsplit(source.repository)
    host = parts.hostname or ""
    header = secrets.get(f"GIT_AUTH_HEADER.{host}") or secrets.get("GIT_AUTH_HEADER")
    token = secrets.get(f"GIT_AUTH_TOKEN.{host}") or secrets.get("GIT_AUTH_TOKEN")
    if header is None and token is not None:
        header = b"basic " + base64.b64encode(b"x-access-token:" + token.strip())
    if not header:
        return {}
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    return {f"http.{server}.extraheader": f"Authorization: {header.decode().strip()}"}
