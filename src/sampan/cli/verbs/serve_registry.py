"""``serve-registry``: a registry of one's own."""

from __future__ import annotations

from sampan.cli import table, units
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from sampan.cli.flags import Options

_DAY = 24 * 3600 * 10**9


def serve(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Serve until a signal ends it, or show what a data directory holds."""
    from pathlib import Path

    if not options.text("data"):
        raise CLIError("--data is needed: the folder that holds (or will hold) the registry's content")
    data = Path(options.text("data")).absolute()
    if options.flag("usage"):
        return _usage(cli, data)
    _check_together(options)
    from sampan.registryd import main
    from sampan.registryd.repositories import Lives

    untagged = options.number("untagged-life") / 1e9 if "untagged-life" in options.given else None
    lives = Lives(
        upload=options.number("upload-life") / 1e9,
        unneeded=options.number("unneeded-life") / 1e9,
        untagged=untagged,
        mirrored=options.number("mirror-life") / 1e9,
    )
    every = options.number("collect-every") / 1e9
    if every <= 0 or min(lives.upload, lives.unneeded, lives.mirrored, untagged or 0) < 0:
        raise CLIError("durations must be positive")
    settings = main.Settings(
        data=data,
        listen=options.all("listen") or ["127.0.0.1:5000"],
        tls_cert=options.text("tls-cert"),
        tls_key=options.text("tls-key"),
        htpasswd=options.text("htpasswd"),
        anonymous=options.flag("anonymous-pull"),
        read_only=options.flag("read-only"),
        mirror=options.text("mirror"),
        mirror_user=options.text("mirror-user"),
        mirror_password_file=options.text("mirror-password-file"),
        share=options.flag("share"),
        lives=lives,
        collect_every=every,
        notify=options.all("notify"),
        notify_headers=options.all("notify-header"),
        connections=max(1, options.number("max-connections")),
        log_level="debug" if cli.settings.debug else "info",
    )
    return main.run(settings)


def _check_together(options: Options) -> None:
    """Refuse flags that would have no effect beside the others."""
    for name in ("mirror-life", "mirror-password-file", "mirror-user"):
        if name in options.given and not options.text("mirror"):
            raise CLIError(f"--{name} needs --mirror")
    if "mirror-password-file" in options.given and not options.text("mirror-user"):
        raise CLIError("--mirror-password-file needs --mirror-user")
    if "untagged-life" in options.given and options.text("mirror"):
        raise CLIError("--untagged-life has no meaning for a mirror", hint="Use --mirror-life.")
    for name in ("collect-every", "unneeded-life", "untagged-life", "upload-life"):
        if name in options.given and options.flag("share"):
            raise CLIError(f"--{name} has no meaning with --share: the engine keeps and removes its images")


def _usage(cli: CLI, data: Path) -> int:
    from sampan.registryd import main

    rows = [["REPOSITORY", "TAGS", "MANIFESTS", "BLOBS", "SIZE", "UNSHARED"]]
    for row in main.usage(data):
        counts = [str(row[key]) for key in ("tags", "manifests", "blobs")]
        rows.append([row["name"], *counts, *(units.size(row[key]) for key in ("size", "unshared"))])
    cli.write(table.columns(rows))
    return 0


SERVE = Command(
    serve,
    "--data DIR [OPTIONS]",
    "Serve a registry that engines push to and pull from",
    (0, 0),
    (
        ("anonymous-pull", "", "bool", False, "Let everybody read; only writing needs a password"),
        ("collect-every", "", "duration", 3600 * 10**9, "Pause between collections of garbage (default 1h)"),
        ("data", "", "string", "", "Folder of the content (with --share: the engine's data root)"),
        (
            "htpasswd",
            "",
            "string",
            "",
            "File of users, made by htpasswd -B; everything needs a password then",
        ),
        ("listen", "", "list", "", "ADDRESS:PORT to serve on (default 127.0.0.1:5000), may be repeated"),
        ("max-connections", "", "int", 1024, "Clients at once; more of them wait"),
        ("mirror", "", "string", "", "URL of a registry whose content is fetched on demand and kept"),
        ("mirror-life", "", "duration", 30 * _DAY, "Keep what nobody asks the mirror for (default 720h)"),
        ("mirror-password-file", "", "string", "", "File with the password at the mirrored registry"),
        ("mirror-user", "", "string", "", "User at the mirrored registry"),
        ("notify", "", "list", "", "URL that is told what was pushed, pulled, deleted; may be repeated"),
        ("notify-header", "", "list", "", "'Name: value' to send with each notification, may be repeated"),
        ("read-only", "", "bool", False, "Refuse everything that writes"),
        ("share", "", "bool", False, "Serve the images of the engine whose data root --data is, to read"),
        ("tls-cert", "", "string", "", "Certificate (PEM, with its chain) for https"),
        ("tls-key", "", "string", "", "The certificate's key"),
        ("unneeded-life", "", "duration", _DAY, "Keep blobs that no manifest needs so long (default 24h)"),
        (
            "untagged-life",
            "",
            "duration",
            0,
            "Remove untagged manifests that nobody asked for in so long (default: never)",
        ),
        ("upload-life", "", "duration", _DAY, "Keep uploads without a new byte so long (default 24h)"),
        ("usage", "", "bool", False, "Show what each repository of --data takes, and quit"),
    ),
)
