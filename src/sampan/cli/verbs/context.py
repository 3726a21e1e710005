"""``context``: named engines."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.cli import connect, table
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.errors import CLIError, text_of
from sampan.cli.verbs.ps import FORMAT_HELP
from sampan.client import endpoint as endpoints
from sampan.client.contexts import DEFAULT, Context, ContextStore, check_name
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options

    Files = dict[str, bytes] | None


def _store(cli: CLI) -> ContextStore:
    return ContextStore(cli.config.folder)


def _default(cli: CLI) -> Context:
    environ = cli.settings.environ
    host = cli.settings.host or endpoints.environment_url(environ) or endpoints.default_url()
    meta = {
        "Name": DEFAULT,
        "Metadata": {"Description": "Current DOCKER_HOST based configuration"},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}},
    }
    return Context(DEFAULT, meta, "")


def _get(cli: CLI, name: str) -> Context:
    return _default(cli) if name == DEFAULT else _store(cli).get(name)


def _parse_docker(cli: CLI, entries: list[str]) -> tuple[dict[str, Any], Files]:
    """``host=…,ca=…,cert=…,key=…,skip-tls-verify=…,from=…`` as an endpoint and its certificates."""
    fields = dict(part.partition("=")[::2] for entry in entries for part in entry.split(",") if part)
    unknown = set(fields) - {"host", "ca", "cert", "key", "skip-tls-verify", "from"}
    if unknown:
        raise CLIError(f"unrecognized config key: {sorted(unknown)[0]}")
    if "from" in fields:
        source = _get(cli, fields["from"])
        return dict(source.docker), _read(source.tls_files())
    endpoints.parse(fields.get("host", ""))
    skip = fields.get("skip-tls-verify", "false").lower() in ("1", "true", "t")
    paths = {kind: fields[kind] for kind in ("ca", "cert", "key") if fields.get(kind)}
    return {"Host": fields["host"], "SkipTLSVerify": skip}, _read(paths)


def _read(paths: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for kind, path in paths.items():
        with open(os.path.expanduser(path), "rb") as file:
            found[kind] = file.read()
    return found


def create(cli: CLI, options: Options, arguments: list[str]) -> int:
    """From flags or from another context."""
    name = arguments[0]
    check_name(name)
    store = _store(cli)
    if any(context.name == name for context in store.all()):
        raise CLIError(f'context "{name}" already exists')
    description = options.text("description")
    files: Files = {}
    if options.text("from"):
        source = _get(cli, options.text("from"))
        docker, files = dict(source.docker), _read(source.tls_files())
        description = description or source.description
    elif options.all("docker"):
        docker, files = _parse_docker(cli, options.all("docker"))
    else:
        docker = dict(_default(cli).docker)
    meta = {
        "Name": name,
        "Metadata": {"Description": description} if description else {},
        "Endpoints": {"docker": docker},
    }
    store.save(Context(name, meta, store.folder), files)
    cli.print(name)
    cli.complain(f'Successfully created context "{name}"')
    return 0


def update(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Only what is given changes."""
    store = _store(cli)
    context = store.get(arguments[0])
    files: Files = None
    if "description" in options.given:
        context.meta.setdefault("Metadata", {})["Description"] = options.text("description")
    if options.all("docker"):
        docker, files = _parse_docker(cli, options.all("docker"))
        context.meta.setdefault("Endpoints", {})["docker"] = docker
    store.save(context, files)
    cli.print(context.name)
    cli.complain(f'Successfully updated context "{context.name}"')
    return 0


class Line(table.Row):
    """One context of the list."""

    current = False


Line.FIELDS = {
    "Current": lambda row: row.current,
    "Description": lambda row: row.data.description,
    "DockerEndpoint": lambda row: row.data.host,
    "Error": lambda row: "",
    "Name": lambda row: row.data.name,
}
TITLES = {
    "Current": "CURRENT",
    "Description": "DESCRIPTION",
    "DockerEndpoint": "DOCKER ENDPOINT",
    "Error": "ERROR",
    "Name": "NAME",
}


def listing(cli: CLI, options: Options, arguments: list[str]) -> int:
    """By name; a star marks the current one."""
    current = connect.context_name(cli.settings, cli.config)
    rows = [Line(context) for context in (_default(cli), *_store(cli).all())]
    rows.sort(key=lambda row: row.data.name)
    for row in rows:
        row.current = row.data.name == current
    variable = next((v for v in ("SAMPAN_HOST", "DOCKER_HOST") if cli.settings.environ.get(v)), "")
    if variable and cli.config.text("currentContext"):
        cli.complain(f"Warning: {variable} environment variable overrides the active context.")
    form = options.text("format")
    if form or options.flag("quiet"):
        quiet = "Name" if options.flag("quiet") else ""
        table.show(cli, rows, titles=TITLES, default=(), form=form, quiet=quiet)
        return 0
    cells = [[TITLES[name] for name in ("Name", "Description", "DockerEndpoint", "Error")]]
    for row in rows:
        context = row.data
        star = f"{context.name} *" if row.current else context.name
        cells.append([star, context.description, context.host, ""])
    cli.write(table.columns(cells))
    return 0


def show(cli: CLI, options: Options, arguments: list[str]) -> int:
    """The current one's name."""
    cli.print(connect.context_name(cli.settings, cli.config))
    return 0


def use(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Written into config.json."""
    name = arguments[0]
    _get(cli, name)
    if name == DEFAULT:
        cli.config.data.pop("currentContext", None)
    else:
        cli.config.data["currentContext"] = name
    cli.config.save()
    cli.print(name)
    cli.complain(f'Current context is now "{name}"')
    for variable in ("SAMPAN_HOST", "DOCKER_HOST"):
        if cli.settings.environ.get(variable):
            cli.complain(
                f"Warning: {variable} environment variable overrides the active context. "
                f'To use "{name}", either set the global --context flag, '
                f"or unset {variable} environment variable."
            )
    return 0


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Not the current one, unless forced."""
    errors = []
    current = cli.config.text("currentContext")
    for name in arguments:
        try:
            if name == DEFAULT:
                raise CLIError('context "default" cannot be removed')
            if name == current and not options.flag("force"):
                raise CLIError(f'context "{name}" is in use, set -f flag to force remove')
            _store(cli).remove(name)
            if name == current:
                del cli.config.data["currentContext"]
                cli.config.save()
            cli.print(name)
        except SampanError as error:
            errors.append(text_of(error))
    if errors:
        raise CLIError("\n".join(errors))
    return 0


def inspect(cli: CLI, options: Options, arguments: list[str]) -> int:
    """The current one, or those named."""
    found = []
    for name in arguments or [connect.context_name(cli.settings, cli.config)]:
        context = _get(cli, name)
        files = list(context.tls_files().values()) if context.folder else []
        found.append(
            {
                "Name": context.name,
                "Metadata": context.meta.get("Metadata") or {},
                "Endpoints": context.meta.get("Endpoints") or {},
                "TLSMaterial": {"docker": [os.path.basename(path) for path in files]} if files else {},
                "Storage": {
                    "MetadataPath": context.meta_folder if context.folder else "<IN MEMORY>",
                    "TLSPath": context.tls_folder if context.folder else "<IN MEMORY>",
                },
            }
        )
    if form := options.text("format"):
        from sampan.cli import template

        for item in found:
            cli.print(template.render("{{json .}}" if form == "json" else form, item, strict=True))
    else:
        cli.print(jsontext.dumps(found, 4))
    return 0


def export(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A tar of meta.json and tls/, readable by us only."""
    from sampan.cli import archives
    from sampan.cli.command import write_all
    from sampan.client import tarstream

    context = _store(cli).get(arguments[0])
    target = arguments[1] if len(arguments) > 1 else f"{context.name}.dockercontext"
    entries = {"meta.json": jsontext.dumps(context.meta).encode()}
    for kind, content in _read(context.tls_files()).items():
        entries[f"tls/docker/{kind}.pem"] = content
    pieces = []
    for name, content in entries.items():
        pieces += [tarstream.header(name, b"0", mode=0o600, size=len(content)), tarstream.padded(content)]
    data = b"".join([*pieces, tarstream.END])
    if target == "-":
        archives.check_output("")
        write_all(1, data)
        return 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    cli.complain(f'Written file "{target}"')
    return 0


def import_context(cli: CLI, options: Options, arguments: list[str]) -> int:
    """From a file or stdin (``-``); tar or zip, as docker writes them."""
    import io

    name, source = arguments
    check_name(name)
    store = _store(cli)
    if any(context.name == name for context in store.all()):
        raise CLIError(f'context "{name}" already exists')
    from sampan.cli.archives import reading

    with reading(source) as pieces:
        entries = _entries(io.BytesIO(b"".join(pieces)))
    if "meta.json" not in entries:
        raise CLIError("invalid context: no meta.json in the archive")
    meta = jsontext.loads(entries["meta.json"])
    meta["Name"] = name
    files = {}
    for kind in ("ca", "cert", "key"):
        if content := entries.get(f"tls/docker/{kind}.pem"):
            files[kind] = content
    store.save(Context(name, meta, store.folder), files)
    cli.print(name)
    cli.complain(f'Successfully imported context "{name}"')
    return 0


def _entries(data: Any) -> dict[str, bytes]:
    import tarfile
    import zipfile

    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    data.seek(0)
    try:
        with tarfile.open(fileobj=data) as tar:
            files = [(member.name, tar.extractfile(member)) for member in tar if member.isreg()]
            return {name: file.read() for name, file in files if file is not None}
    except tarfile.TarError as error:
        raise CLIError(f"invalid context: {error}") from None


_DESCRIPTION = ("description", "", "string", "", "What it is for")
_DOCKER = ("docker", "", "list", "", "The engine: host=…,ca=…,cert=…,key=…,skip-tls-verify=…")
_FORMAT = ("format", "f", "string", "", FORMAT_HELP)
CREATE = Command(
    create,
    "[OPTIONS] CONTEXT",
    "Name an engine",
    (1, 1),
    (_DESCRIPTION, _DOCKER, ("from", "", "string", "", "Copy this context")),
)
UPDATE = Command(update, "[OPTIONS] CONTEXT", "Change a context", (1, 1), (_DESCRIPTION, _DOCKER))
LS = Command(
    listing,
    "[OPTIONS]",
    "List contexts",
    (0, 0),
    (
        ("format", "", "string", "", FORMAT_HELP),
        ("quiet", "q", "bool", False, "Print names only"),
    ),
)
SHOW = Command(show, "", "Print the current context's name", (0, 0))
USE = Command(use, "CONTEXT", "Make a context the current one", (1, 1))
RM = Command(
    remove,
    "CONTEXT [CONTEXT...]",
    "Remove contexts",
    (1, MANY),
    (("force", "f", "bool", False, "Even the current one"),),
)
INSPECT = Command(
    inspect, "[OPTIONS] [CONTEXT] [CONTEXT...]", "Show everything about contexts", (0, MANY), (_FORMAT,)
)
EXPORT = Command(export, "[OPTIONS] CONTEXT [FILE|-]", "Write a context to a tar archive", (1, 2))
IMPORT = Command(import_context, "CONTEXT FILE|-", "Read a context from a tar archive", (2, 2))
