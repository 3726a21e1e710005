"""Which variables an instruction sees: build arguments in their scopes, and the image's environment."""

from __future__ import annotations

from collections.abc import Callable

from sampan.build.imageconfig import Expander
from sampan.build.instructions import Arg, ArgItem
from sampan.build.options import PREDEFINED_ARGS, BuildOptions, Platform, native
from sampan.build.words import Lexer


def platform_args(target: Platform) -> dict[str, str]:
    """The automatic arguments of the global scope (reference, "Automatic platform ARGs")."""
    found = {}
    for prefix, one in (("TARGET", target), ("BUILD", native())):
        found[f"{prefix}PLATFORM"] = str(one)
        found[f"{prefix}OS"] = one.os
        found[f"{prefix}ARCH"] = one.architecture
        found[f"{prefix}VARIANT"] = one.variant
    return found


class GlobalScope:
    """The arguments before the first FROM."""

    def __init__(self, options: BuildOptions, target: Platform, escape: str) -> None:
        self.given = options.args
        self.escape = escape
        self.used: set[str] = set()
        self.values: dict[str, str] = platform_args(target)
        self.declared: dict[str, str | None] = {}

    def declare(self, arg: Arg) -> None:
        """Take in one global ARG."""
        for item in arg.items:
            value = self._value(item)
            self.declared[item.name] = value
            if value is not None:
                self.values[item.name] = value

    def _value(self, item: ArgItem) -> str | None:
        self.used.add(item.name)
        given = self.given.get(item.name)
        if given is not None:
            return given
        if item.default is None:
            return self.values.get(item.name)
        return self.expand(item.default)

    def expand(self, text: str, undefined: Callable[[str], None] | None = None) -> str:
        """Expand a text of a FROM line or a global ARG."""
        return Lexer(self.escape, undefined=undefined).word(text, self.values)

    def unused(self) -> list[str]:
        """Build arguments that nothing declared, sorted; dockerd warns of them."""
        exempt = {*PREDEFINED_ARGS, "SOURCE_DATE_EPOCH"}
        return sorted(
            name
            for name in self.given
            if name not in self.used and name not in exempt and not name.startswith("BUILDKIT_")
        )


class Scope:
    """The arguments of one stage; a stage that builds on another begins with that one's."""

    def __init__(self, outer: GlobalScope, inherited: dict[str, str | None] | None = None) -> None:
        self.outer = outer
        self.args: dict[str, str | None] = dict(inherited or {})

    def declare(self, item: ArgItem, env: dict[str, str]) -> str | None:
        """Take in ``ARG name[=default]``; its value, None when it has none."""
        self.outer.used.add(item.name)
        given = self.outer.given.get(item.name)
        if given is not None:
            value: str | None = given
        elif item.default is not None:
            value = self.expander(env).word(item.default)
        else:
            value = self.outer.values.get(item.name)
        self.args[item.name] = value
        return value

    def variables(self, env: dict[str, str]) -> dict[str, str]:
        """All that a text may refer to: arguments, and over them the environment."""
        return {name: value for name, value in self.args.items() if value is not None} | env

    def expander(self, env: dict[str, str]) -> Expander:
        """How texts of this stage are expanded."""
        variables = self.variables(env)
        lexer = Lexer(self.outer.escape)
        return Expander(lambda t: lexer.word(t, variables), lambda t: lexer.words(t, variables))

    def run_args(self, env: dict[str, str]) -> dict[str, str]:
        """The declared arguments that a RUN gets into its environment and that count for its cache key."""
        return {name: value for name, value in self.args.items() if value is not None and name not in env}

    def hidden_args(self, env: dict[str, str]) -> dict[str, str]:
        """Predefined proxy arguments that RUN gets too, without a trace in history or cache."""
        given = self.outer.given
        return {
            name: value
            for name in PREDEFINED_ARGS
            if (value := given.get(name)) is not None and name not in env and name not in self.args
        }
