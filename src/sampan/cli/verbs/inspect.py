"""``inspect``: everything about objects, as JSON or through a template."""

from __future__ import annotations

from sampan import jsontext
from sampan.cli import platforms
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.errors import CLIError, text_of
from sampan.cli.template import Template, TemplateError
from sampan.client.engine import path_of
from sampan.client.errors import APIError
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.flags import Options

    Getter = Callable[[str], Any]


def _getters(cli: CLI, options: Options) -> dict[str, Getter]:
    """How each kind of object is asked for, in the order in which a bare name is tried."""
    size = {"size": "size" in options and options.flag("size")}
    platform = options.text("platform") if "platform" in options else ""
    verbose = {"verbose": True} if "verbose" in options and options.flag("verbose") else None
    of_image = platforms.query([platform])
    call = cli.client.call
    return {
        "container": lambda name: call("GET", path_of("containers", name.strip("/")) + "/json", size),
        "image": lambda name: call("GET", path_of("images", name) + "/json", of_image),
        "network": lambda name: call("GET", path_of("networks", name), verbose),
        "volume": lambda name: call("GET", path_of("volumes", name)),
        "plugin": lambda name: call("GET", path_of("plugins", name) + "/json"),
    }


KINDS = ("config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume")


def inspect_any(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Objects of any kind, or of ``--type``."""
    kind = options.text("type")
    if not kind:
        return show(cli, options, arguments, lambda name: _find(_getters(cli, options), name))
    if kind not in KINDS:
        known = ", ".join(f'"{name}"' for name in KINDS)
        raise CLIError(f'unknown type: "{kind}": must be one of {known}')
    getters = _getters(cli, options)
    if kind in getters:
        return show(cli, options, arguments, getters[kind])
    plural = f"{kind}s"
    return show(cli, options, arguments, lambda name: cli.client.call("GET", path_of(plural, name)))


def _find(getters: dict[str, Getter], name: str) -> Any:
    for get in getters.values():
        try:
            return get(name)
        except APIError as error:
            # 501: an engine without that kind of object has none of that name.
            if error.status not in (404, 501, 503) and "page not found" not in error.message:
                raise
    raise CLIError(f"Error: No such object: {name}")


def show(cli: CLI, options: Options, arguments: list[str], get: Getter) -> int:
    """Print what is found, then the errors; exit code 1 if there are any."""
    form = options.text("format")
    template = Template("{{json .}}" if form == "json" else _plain(form)) if form else None
    found, errors, out = [], [], []
    for name in arguments:
        try:
            value = _named(name, get)
            found.append(value)
            if template is not None:
                out.append(template.run(value, strict=True) + "\n")
        except TemplateError as error:
            out = out or ["\n"]
            errors.append(str(error))
            break
        except SampanError as error:
            errors.append(text_of(error))
    if template is None:
        cli.write(jsontext.dumps(found, 4, escape=False) + "\n" if found else "[]\n")
    elif out:
        cli.write("".join(out))
    else:
        cli.write("\n")
    if errors:
        raise CLIError("\n".join(errors))
    return 0


def _plain(form: str) -> str:
    return form.replace("\\t", "\t").replace("\\n", "\n")


def _named(name: str, get: Getter) -> Any:
    if not name.strip("/"):
        raise CLIError("invalid container name or ID: value is empty")
    return get(name)


def _of(kind: str) -> Callable[[CLI, Options, list[str]], int]:
    def inspect(cli: CLI, options: Options, arguments: list[str]) -> int:
        return show(cli, options, arguments, _getters(cli, options)[kind])

    return inspect


def _image(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Images of the engine, or with ``--remote`` of their registries."""
    if options.flag("remote"):
        from sampan.cli import remote

        return show(
            cli, options, arguments, lambda name: remote.describe(cli, name, options.text("platform"))
        )
    return _of("image")(cli, options, arguments)


_FORMAT = ("format", "f", "string", "", "Format with a Go template, or 'json'")
_SIZE = ("size", "s", "bool", False, "Show what a container takes up")
ANY = Command(
    inspect_any,
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything about objects of any kind",
    (1, MANY),
    (_FORMAT, _SIZE, ("type", "", "string", "", "Only objects of this kind")),
)
CONTAINER = Command(
    _of("container"),
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything about containers",
    (1, MANY),
    (_FORMAT, _SIZE),
)
IMAGE = Command(
    _image,
    "[OPTIONS] IMAGE [IMAGE...]",
    "Show everything about images",
    (1, MANY),
    (
        _FORMAT,
        ("platform", "", "string", "", "Of this platform's image"),
        ("remote", "", "bool", False, "As its registry has it, without pulling"),
    ),
)
NETWORK = Command(
    _of("network"),
    "[OPTIONS] NETWORK [NETWORK...]",
    "Show everything about networks",
    (1, MANY),
    (_FORMAT, ("verbose", "v", "bool", False, "With the services of a swarm, where the engine is in one")),
)
VOLUME = Command(
    _of("volume"), "[OPTIONS] VOLUME [VOLUME...]", "Show everything about volumes", (1, MANY), (_FORMAT,)
)
