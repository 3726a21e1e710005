"""``events``: what happens in the engine, as it happens."""

from __future__ import annotations

from sampan.cli import filters, units
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.cli.table import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def events(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A line an event, until ``--until`` or Ctrl-C."""
    query: dict[str, Any] = {"filters": filters.encode(options.all("filter"))}
    for flag in ("since", "until"):
        try:
            query[flag] = units.timestamp_parameter(options.text(flag), "") or None
        except ValueError as error:
            raise CLIError(str(error)) from None
    form = options.text("format")
    if form:
        from sampan.cli.template import Template

        template = Template("{{json .}}" if form == "json" else unescape(form))
        for event in cli.client.stream("GET", "/events", query):
            cli.print(template.run(event))
        return 0
    for event in cli.client.stream("GET", "/events", query):
        cli.print(line_of(event))
    return 0


def line_of(event: dict[str, Any]) -> str:
    """``time type action id (attributes)``."""
    import time

    nanoseconds = event.get("timeNano") or event["time"] * units.SECOND
    moment = time.localtime(nanoseconds // units.SECOND)
    zone = time.strftime("%z", moment)
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{nanoseconds % units.SECOND:09d}{shown}"
    actor = event.get("Actor") or {}
    text += f" {event['Type']} {event['Action']} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        text += " (" + ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes)) + ")"
    return text


EVENTS = Command(
    events,
    "[OPTIONS]",
    "Show what happens in the engine, as it happens",
    (0, 0),
    (
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", "Format with a Go template, or 'json'"),
        ("since", "", "string", "", "From this time on (RFC 3339, or 42m for 42 minutes ago)"),
        ("until", "", "string", "", "Up to this time"),
    ),
)
