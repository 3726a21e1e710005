"""``build``: send the context, show the steps, print what came out."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.cli import buildoutput, context, names, progress, terminal, trust, units
from sampan.cli.command import CLI, Command, write_all
from sampan.cli.errors import CLIError, FlagError
from sampan.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import Options

REFRESH = 512 * 1024
_EPOCH = "SOURCE_DATE_EPOCH"
_OURS = ("check", "no-cache-filter", "output", "secret", "ssh", "why")


def build(cli: CLI, options: Options, arguments: list[str]) -> int:
    """The failing step's exit code is ours; with --check 1 when there are findings."""
    for tag in options.all("tag"):
        _check_tag(tag)
    trust.check(cli, options)
    mode = _mode(options)
    output = buildoutput.parse(options.text("output")) if options.text("output") else None
    for flag in _OURS:
        if flag in options.given:
            _ask_engine(cli, f"--{flag}")
    sent = context.prepare(arguments[0], options.text("file"))
    if options.flag("compress") and sent.body is not None and arguments[0] != "-":
        sent.body = _gzipped(sent.body)
    query = _query(cli, options, sent)
    if output is not None and output.files:
        query["outputs"] = jsontext.dumps([{"Type": "tar"}])
    if not options.all("ssh"):
        return _request(cli, options, query, sent, mode, output)
    from sampan.cli.sshagents import Lent

    lent = Lent(options.all("ssh"))
    try:
        query["ssh"] = lent.lend(cli.client)
        return _request(cli, options, query, sent, mode, output)
    finally:
        lent.close()


def _request(
    cli: CLI,
    options: Options,
    query: dict[str, Any],
    sent: context.Context,
    mode: str,
    output: buildoutput.Output | None,
) -> int:
    headers = {"Content-Type": "application/x-tar", **credentials.all_headers(cli.config)}
    if secrets := _secrets(options.all("secret")):
        headers["X-Sampan-Secrets"] = credentials.encode(secrets)
    if options.flag("check"):
        return _check(cli, cli.client.stream("POST", "/build", query, body=sent.body, headers=headers))
    show = {"quiet": _quietly, "rawjson": _raw, "tty": _live, "plain": _plainly}[mode]
    descriptor = 2 if output is not None and output.to_stdout else 1
    shown = _Shown(cli, query, sent.body, headers, descriptor)
    show(shown, options.flag("why"), output)
    if path := options.text("iidfile"):
        with open(path, "w", encoding="ascii") as file:
            file.write(shown.identifier)
    return 0


def _ask_engine(cli: CLI, flag: str) -> None:
    """Refuse what another engine would not know, and build an image instead."""
    if "sampan" not in str(cli.client.call("GET", "/version").get("Version")):
        raise CLIError(
            f"this engine doesn't know {flag} over the classic build endpoint",
            hint="With Docker's engine use docker buildx build.",
        )


def _mode(options: Options) -> str:
    """How progress is shown: quiet, plain, tty (drawn) or rawjson."""
    mode = options.text("progress")
    known = ("auto", "none", "plain", "quiet", "rawjson", "tty")
    if mode not in known:
        raise FlagError(f'invalid progress mode "{mode}"', hint=f"Known are {', '.join(known)}.")
    if options.flag("quiet") or mode in ("quiet", "none"):
        return "quiet"
    drawable = terminal.is_terminal(1) and os.environ.get("TERM", "dumb") != "dumb"
    if mode == "tty" and not drawable:
        raise CLIError("failed to get console: provided file is not a console")
    return ("tty" if drawable else "plain") if mode == "auto" else mode


class _Shown:
    """A build under way: the request, where its progress goes, and the image's id when it has come."""

    def __init__(
        self,
        cli: CLI,
        query: dict[str, Any],
        body: Iterator[bytes] | None,
        headers: dict[str, str],
        descriptor: int,
    ) -> None:
        self.cli = cli
        self.query = query
        self.body = body
        self.headers = headers
        self.descriptor = descriptor
        self.identifier = ""

    def stream(self, body: Iterator[bytes] | None, **more: Any) -> Iterator[dict[str, Any]]:
        query = {**self.query, **more}
        return self.cli.client.stream("POST", "/build", query, body=body, headers=self.headers)

    def note(self, record: dict[str, Any]) -> None:
        if record.get("ID"):
            self.identifier = str(record["ID"])

    def write(self, text: str) -> None:
        write_all(self.descriptor, text.encode("utf-8", "surrogateescape"))


def _plainly(shown: _Shown, why: bool, output: buildoutput.Output | None) -> None:
    """The engine's lines as they come, with reasons below their steps."""

    def note(record: dict[str, Any]) -> None:
        shown.note(record)
        if record.get("Result") == "built":
            shown.write("".join(f" ---> Not cached: {reason}\n" for reason in record.get("Reasons") or []))

    body = shown.body if shown.body is None else _counted(shown, shown.body)
    receiver = buildoutput.Receiver(shown.stream(body, **({"why": True} if why else {})))
    progress.show(receiver.progress(), shown.descriptor, note)
    if output is not None and output.files:
        receiver.write(output)


def _live(shown: _Shown, why: bool, output: buildoutput.Output | None) -> None:
    """The graph, drawn; an engine that sends none is shown plainly."""
    import itertools

    from sampan.cli import buildview

    after: list[dict[str, Any]] = []
    view = buildview.View(shown.descriptor, why=why)

    def counted(pieces: Iterator[bytes]) -> Iterator[bytes]:
        sent = 0
        for piece in pieces:
            yield piece
            sent += len(piece)
            view.sent(sent)

    body = shown.body if shown.body is None else counted(shown.body)
    with view:
        receiver = buildoutput.Receiver(shown.stream(body, graph=True))
        items = receiver.progress()
        for item in items:
            record = item.get("aux")
            if isinstance(record, dict) and str(item.get("id", "")).startswith("sampan."):
                view.take(record)
                continue
            after.append(item)
            if not view.steps:
                break
    for line in view.failed_lines():
        shown.write(f"{line}\n")
    progress.show(itertools.chain(after, items), shown.descriptor, shown.note)
    if output is not None and output.files:
        receiver.write(output)


def _raw(shown: _Shown, why: bool, output: buildoutput.Output | None) -> None:
    """The engine's records, a line each, on stderr as docker has it."""
    failed: dict[str, Any] | None = None
    receiver = buildoutput.Receiver(shown.stream(shown.body, graph=True))
    for item in receiver.progress():
        shown.cli.complain(jsontext.dumps(item))
        shown.note(item.get("aux") or {})
        failed = item if item.get("error") else failed
    if failed is not None:
        progress.show([failed], 2)
    if output is not None and output.files:
        receiver.write(output)


def _check(cli: CLI, stream: Iterator[dict[str, Any]]) -> int:
    """Findings as buildx words them; exit code 1 when there are any."""
    found: list[dict[str, Any]] | None = None

    def note(record: dict[str, Any]) -> None:
        nonlocal found
        found = record.get("Warnings", found)

    progress.show(stream, 2, note)
    if found is None:
        raise CLIError("the engine knows no build checks over the classic endpoint")
    if not found:
        cli.print("Check complete, no warnings found.")
        return 0
    many = "1 warning has" if len(found) == 1 else f"{len(found)} warnings have"
    cli.print(f"Check complete, {many} been found!")
    for one in found:
        cli.print(f"\nWARNING: {one['RuleName']} - {one['Url']}\n{one['Detail']}\n{one['Frame']}")
    return 1


def lost_space(options: Options) -> str:
    """``build -t name:tag.`` lacks its context: the point was meant to be it."""
    for tag in options.all("tag"):
        if str(tag).endswith("."):
            return f"A blank is missing before the last point: sampan build -t {tag[:-1]} ."
    return "The context is missing: most often it is the present folder, a point at the end."


def _check_tag(tag: str) -> None:
    try:
        names.parse(tag)
    except CLIError as error:
        raise FlagError(
            f'invalid argument "{tag}" for "-t, --tag" flag: {error.message}', hint=error.hint
        ) from None


def _quietly(shown: _Shown, why: bool, output: buildoutput.Output | None) -> None:
    """Only the id, unless it fails: then everything that was said, on stderr."""
    said: list[dict[str, Any]] = []
    last = ""
    receiver = buildoutput.Receiver(shown.stream(shown.body, q=True))
    try:
        for item in receiver.progress():
            said.append(item)
            last = str(item.get("stream") or last)
            if "error" in item:
                progress.show([item], 2)
    except CLIError:
        progress.show([item for item in said if "stream" in item], 2)
        raise
    if output is not None and output.files:
        receiver.write(output)
    else:
        shown.identifier = last.strip()
        shown.cli.print(shown.identifier)


def _counted(shown: _Shown, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Show how much of the context has gone."""
    sent, told = 0, 0
    drawn = terminal.is_terminal(shown.descriptor)
    for piece in pieces:
        yield piece
        sent += len(piece)
        if drawn and sent - told > REFRESH:
            told = sent
            shown.write(f"Sending build context to Docker daemon {units.size(sent):>8}\r")
    shown.write(f"Sending build context to Docker daemon {units.size(sent):>8}\r\r\n")


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import zlib

    codec = zlib.compressobj(1, wbits=31)
    for piece in pieces:
        if data := codec.compress(piece):
            yield data
    yield codec.flush()


def _query(cli: CLI, options: Options, sent: context.Context) -> dict[str, Any]:
    query: dict[str, Any] = {
        "dockerfile": sent.dockerfile or "Dockerfile",
        "remote": sent.remote or None,
        "t": options.all("tag") or None,
        "rm": options.flag("rm"),
        "version": 1,
    }
    if not options.flag("rm"):
        query["rm"] = 0
    for flag, key in _FLAGS:
        query[key] = options.flag(flag)
    for flag, key in _VALUES:
        query[key] = options.text(flag) if options.text(flag) not in ("", "0") else None
    arguments = _arguments(options.all("build-arg"), cli.config.proxies(cli.client.endpoint.url))
    for key, value in (
        ("buildargs", arguments),
        ("labels", dict(label.partition("=")[::2] for label in options.all("label"))),
        ("cachefrom", options.all("cache-from")),
        ("nocachefilter", options.all("no-cache-filter")),
        ("ulimits", options.all("ulimit")),
    ):
        if value:
            query[key] = jsontext.dumps(value)
    query["extrahosts"] = options.all("add-host") or None
    query["securityopt"] = (
        jsontext.dumps(options.all("security-opt")) if options.all("security-opt") else None
    )
    if options.flag("check"):
        query["check"] = True
    return query


def _arguments(entries: list[str], proxies: dict[str, str]) -> dict[str, str | None]:
    """``NAME=value``, or ``NAME`` for the value it has here; SOURCE_DATE_EPOCH goes along, as in buildx."""
    found: dict[str, str | None] = dict(proxies)
    if epoch := os.environ.get(_EPOCH):
        found[_EPOCH] = epoch
    for entry in entries:
        name, equals, value = entry.partition("=")
        found[name] = value if equals else os.environ.get(name)
    return found


def _secrets(entries: list[str]) -> dict[str, str]:
    """``id=x,src=file`` or ``id=x,env=NAME``: contents in base64 by id."""
    import binascii

    found = {}
    for entry in entries:
        fields = dict(field.partition("=")[::2] for field in entry.split(","))
        name = fields.get("id") or os.path.basename(fields.get("src", ""))
        variable = fields.get("env", "")
        path = fields.get("src") or fields.get("source") or ""
        if not name:
            raise FlagError(f'invalid argument "{entry}" for "--secret" flag: an id is required')
        if not path and (variable or name in os.environ):
            content = os.environ.get(variable or name, "").encode("utf-8", "surrogateescape")
        else:
            try:
                with open(path or name, "rb") as file:
                    content = file.read()
            except OSError as error:
                raise CLIError(f"failed to stat {path or name}: {(error.strerror or '').lower()}") from None
        found[name] = binascii.b2a_base64(content, newline=False).decode()
    return found


_FLAGS = (
    ("no-cache", "nocache"),
    ("pull", "pull"),
    ("force-rm", "forcerm"),
    ("squash", "squash"),
)
_VALUES = (
    ("target", "target"),
    ("network", "networkmode"),
    ("platform", "platform"),
    ("isolation", "isolation"),
    ("cgroup-parent", "cgroupparent"),
    ("cpu-period", "cpuperiod"),
    ("cpu-quota", "cpuquota"),
    ("cpu-shares", "cpushares"),
    ("cpuset-cpus", "cpusetcpus"),
    ("cpuset-mems", "cpusetmems"),
    ("memory", "memory"),
    ("memory-swap", "memswap"),
    ("shm-size", "shmsize"),
)
BUILD = Command(
    build,
    "[OPTIONS] PATH | URL | -",
    "Build an image from a Dockerfile",
    (1, 1),
    (
        ("add-host", "", "add-host", "", "Add a line to /etc/hosts (host:ip)"),
        ("build-arg", "", "list", "", "Set a build-time variable (NAME=value)"),
        ("cache-from", "", "strings", "", "Images whose layers may be used as cache"),
        ("cgroup-parent", "", "string", "", "Put the cgroups of RUN below this one"),
        ("check", "", "bool", False, "Check the Dockerfile, build nothing"),
        ("compress", "", "bool", False, "Send the context compressed"),
        ("cpu-period", "", "int", 0, "Length of a CFS period in microseconds"),
        ("cpu-quota", "", "int", 0, "CPU time a period in microseconds"),
        ("cpu-shares", "c", "int", 0, "Weight against other containers when CPUs are busy"),
        ("cpuset-cpus", "", "string", "", "Which CPUs may be used (0-3, 0,1)"),
        ("cpuset-mems", "", "string", "", "Which memory nodes may be used (0-3, 0,1)"),
        ("disable-content-trust", "", "bool", True, "Skip image verification"),
        ("file", "f", "string", "", "The Dockerfile ('-': from stdin; default PATH/Dockerfile)"),
        ("force-rm", "", "bool", False, "Remove intermediate containers even after a failure"),
        ("iidfile", "", "string", "", "Write the image's id to this file"),
        ("isolation", "", "string", "", "Isolation technology (Linux: default)"),
        ("label", "", "label", "", "Set a label of the image (key=value)"),
        ("memory", "m", "bytes", 0, "Memory limit of RUN (b|k|m|g)"),
        ("memory-swap", "", "swap", 0, "Limit of memory and swap together (-1: unlimited swap)"),
        ("network", "", "string", "", "Network of RUN: default, none, host, …"),
        ("no-cache", "", "bool", False, "Run every step anew"),
        ("no-cache-filter", "", "strings", "", "Stages to build anew"),
        ("output", "o", "string", "", "The result's files: FOLDER, - (tar), type=local|tar|image,dest=PATH"),
        ("platform", "", "string", "", "Build for this platform"),
        ("progress", "", "string", "auto", "How progress is shown: auto, tty, plain, quiet, rawjson"),
        ("pull", "", "bool", False, "Look for newer base images"),
        ("quiet", "q", "bool", False, "Print the image's id only"),
        ("rm", "", "bool", True, "Remove intermediate containers"),
        ("secret", "", "secret", "", "A secret for RUN --mount=type=secret (id=x,src=FILE or env=NAME)"),
        ("security-opt", "", "strings", "", "Security option of RUN"),
        ("shm-size", "", "bytes", 0, "Size of /dev/shm of RUN"),
        ("ssh", "", "list", "", "Lend an SSH agent to RUN --mount=type=ssh (ID, ID=SOCKET, ID=KEY)"),
        ("squash", "", "bool", False, "Make one layer of all new ones"),
        ("tag", "t", "list", "", "Name of the image (name:tag)"),
        ("target", "", "string", "", "Build up to this stage"),
        ("ulimit", "", "ulimit", "", "Resource limit of RUN (name=soft[:hard])"),
        ("why", "", "bool", False, "Say for each step why the cache did not serve"),
    ),
    explain=lost_space,
)
