"""Every verb: the words that call it, the module that does it, one line about it.

Only this table is read before a verb is known; the module is imported on demand. A row's key is the path
as it is typed (``container ls``), its value ``module:NAME`` below ``sampan.cli.verbs``.
"""

from __future__ import annotations

CONTAINER = {
    "attach": ("attach:ATTACH", "Attach your terminal to a running container"),
    "commit": ("commit:COMMIT", "Make an image from a container's changes"),
    "cp": ("cp:CP", "Copy files between a container and this machine"),
    "create": ("create:CREATE", "Create a container without starting it"),
    "diff": ("diff:DIFF", "Show what a container changed in its file system"),
    "exec": ("exec:EXEC", "Run a command in a running container"),
    "export": ("export:EXPORT", "Write a container's file system as a tar archive"),
    "inspect": ("inspect:CONTAINER", "Show everything about containers"),
    "kill": ("stop:KILL", "Send a signal to running containers"),
    "logs": ("logs:LOGS", "Show a container's output"),
    "ls": ("ps:PS", "List containers"),
    "pause": ("pause:PAUSE", "Freeze all processes of containers"),
    "port": ("port:PORT", "Show a container's published ports"),
    "prune": ("prune:CONTAINERS", "Remove all stopped containers"),
    "rename": ("rename:RENAME", "Rename a container"),
    "restart": ("stop:RESTART", "Restart containers"),
    "rm": ("rm:RM", "Remove containers"),
    "run": ("run:RUN", "Create and start a container from an image"),
    "start": ("start:START", "Start stopped containers"),
    "stats": ("stats:STATS", "Show containers' use of processor, memory, network, disk"),
    "stop": ("stop:STOP", "Stop running containers"),
    "top": ("top:TOP", "Show the processes of a container"),
    "unpause": ("pause:UNPAUSE", "Thaw paused containers"),
    "update": ("update:UPDATE", "Change limits and restart policy of containers"),
    "wait": ("wait:WAIT", "Wait until containers stop, print their exit codes"),
}
IMAGE = {
    "build": ("build:BUILD", "Build an image from a Dockerfile"),
    "history": ("history:HISTORY", "Show an image's layers and how they came about"),
    "import": ("import_:IMPORT", "Make an image from a tar archive of a file system"),
    "inspect": ("inspect:IMAGE", "Show everything about images"),
    "load": ("load:LOAD", "Load images from an archive or stdin"),
    "ls": ("images:IMAGES", "List images"),
    "prune": ("prune:IMAGES", "Remove unused images"),
    "pull": ("pull:PULL", "Fetch an image from a registry"),
    "push": ("push:PUSH", "Send an image to a registry"),
    "rm": ("rmi:RMI", "Remove images"),
    "save": ("save:SAVE", "Write images to an archive or stdout"),
    "send": ("send:SEND", "Send an image to another engine, without a registry"),
    "tag": ("tag:TAG", "Give an image another name"),
}
VOLUME = {
    "create": ("volume:CREATE", "Create a volume"),
    "inspect": ("inspect:VOLUME", "Show everything about volumes"),
    "ls": ("volume:LS", "List volumes"),
    "prune": ("prune:VOLUMES", "Remove volumes that no container uses"),
    "rm": ("volume:RM", "Remove volumes"),
    "update": ("volume:UPDATE", "Update a cluster volume"),
}
NETWORK = {
    "connect": ("network:CONNECT", "Connect a container to a network"),
    "create": ("network:CREATE", "Create a network"),
    "disconnect": ("network:DISCONNECT", "Disconnect a container from a network"),
    "egress": ("network:EGRESS", "Show what a container may reach and what it was refused"),
    "inspect": ("inspect:NETWORK", "Show everything about networks"),
    "ls": ("network:LS", "List networks"),
    "prune": ("prune:NETWORKS", "Remove networks that no container uses"),
    "rm": ("network:RM", "Remove networks"),
}
CONTEXT = {
    "create": ("context:CREATE", "Name an engine"),
    "export": ("context:EXPORT", "Write a context to a tar archive"),
    "import": ("context:IMPORT", "Read a context from a tar archive"),
    "inspect": ("context:INSPECT", "Show everything about contexts"),
    "ls": ("context:LS", "List contexts"),
    "rm": ("context:RM", "Remove contexts"),
    "show": ("context:SHOW", "Print the current context's name"),
    "update": ("context:UPDATE", "Change a context"),
    "use": ("context:USE", "Make a context the current one"),
}
MANIFEST = {
    "annotate": ("manifest:ANNOTATE", "Say more of an image in a manifest list"),
    "create": ("manifest:CREATE", "Begin a manifest list of images in a registry"),
    "inspect": ("manifest:INSPECT", "Show a manifest or manifest list"),
    "push": ("manifest:PUSH", "Put a manifest list into its registry"),
    "rm": ("manifest:RM", "Forget manifest lists that were begun"),
}
SYSTEM = {
    "df": ("df:DF", "Show what takes up disk space"),
    "dial-stdio": ("dial_stdio:DIAL", "Connect stdin and stdout to the engine (for ssh:// clients)"),
    "events": ("events:EVENTS", "Show what happens in the engine, as it happens"),
    "info": ("info:INFO", "Show the engine's state and settings"),
    "prune": ("prune:SYSTEM", "Remove everything unused"),
}
BUILDER = {
    "build": ("build:BUILD", "Build an image from a Dockerfile"),
    "prune": ("prune:BUILD_CACHE", "Remove build cache"),
}
GROUPS = {
    "builder": (BUILDER, "Manage the build cache"),
    "container": (CONTAINER, "Manage containers"),
    "context": (CONTEXT, "Manage the engines that you talk to"),
    "image": (IMAGE, "Manage images"),
    "manifest": (MANIFEST, "Manage manifest lists in registries"),
    "network": (NETWORK, "Manage networks"),
    "system": (SYSTEM, "Manage the engine"),
    "volume": (VOLUME, "Manage volumes"),
}
COMMON = {
    "run": CONTAINER["run"],
    "exec": CONTAINER["exec"],
    "ps": CONTAINER["ls"],
    "build": IMAGE["build"],
    "pull": IMAGE["pull"],
    "push": IMAGE["push"],
    "images": IMAGE["ls"],
    "login": ("login:LOGIN", "Log in to a registry"),
    "logout": ("login:LOGOUT", "Log out from a registry"),
    "search": ("search:SEARCH", "Search a registry for images"),
    "version": ("version:VERSION", "Show the client's and the engine's versions"),
    "info": SYSTEM["info"],
}
TOP = {
    **{name: CONTAINER[name] for name in CONTAINER if name not in ("ls", "inspect", "prune")},
    **{name: IMAGE[name] for name in ("history", "import", "load", "save", "tag")},
    "events": SYSTEM["events"],
    "inspect": ("inspect:ANY", "Show everything about objects of any kind"),
    "rmi": IMAGE["rm"],
    "serve-registry": ("serve_registry:SERVE", "Serve a registry that engines push to and pull from"),
}
ALIASES = {
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
    "image list": "image ls",
    "image remove": "image rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
    "network list": "network ls",
    "network remove": "network rm",
    "context list": "context ls",
    "context remove": "context rm",
    "volumes": "volume ls",
    "networks": "network ls",
}
SWARM = frozenset({"config", "node", "secret", "service", "stack", "swarm"})
"""Docker's verbs for clusters: this engine is for one machine; refused with a sentence that says so."""


def find(words: list[str]) -> tuple[str, str]:
    """The verb that the leading words name: its path as typed ("container ls") and ``module:NAME``.

    A group alone gives ("container", ""); an unknown word ("", "").
    """
    group = GROUPS.get(words[0])
    if group is not None:
        if len(words) < 2 or words[1].startswith("-"):
            return words[0], ""
        typed = f"{words[0]} {words[1]}"
        row = group[0].get(ALIASES.get(typed, typed).split(" ", 1)[1])
        return (typed, row[0]) if row else ("", "")
    row = COMMON.get(words[0]) or TOP.get(words[0])
    if row is None and words[0] in ALIASES:
        return words[0], find(ALIASES[words[0]].split(" "))[1]
    return (words[0], row[0]) if row else ("", "")
