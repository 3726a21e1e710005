"""Seccomp profiles in Docker's format: resolved for one container, compiled once, cached.

A profile's rules depend on the container's capabilities, the architecture and the kernel. Resolving gives
the ``linux.seccomp`` section of an OCI spec (config-linux.md, Seccomp); compiling gives the BPF program.
Compiling takes 3–15 ms and nearly every container uses the same profile and capabilities, so programs are
kept in memory and, if the caller names a directory, on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sampan.errors import InvalidParameter
from sampan.kernel import seccomp as compiler
from sampan.runtime.filters import check_action, compile_section

Section = dict[str, Any]

# Part of every cache key: raise it when the way programs are made changes.
_FORMAT = 1

# Go's names of architectures, which "includes" and "excludes" use.
_GO_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "amd64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_ARM": "arm",
    "SCMP_ARCH_AARCH64": "arm64",
    "SCMP_ARCH_PPC64LE": "ppc64le",
    "SCMP_ARCH_S390": "s390",
    "SCMP_ARCH_S390X": "s390x",
    "SCMP_ARCH_RISCV64": "riscv64",
    "SCMP_ARCH_LOONGARCH64": "loong64",
    "SCMP_ARCH_MIPS64": "mips64",
    "SCMP_ARCH_MIPSEL64": "mips64le",
}


@cache
def default_profile() -> str:
    """The text of the built-in profile."""
    return (Path(__file__).parent / "data" / "seccomp-default.json").read_text("utf-8")


@cache
def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def parse_profile(text: str) -> dict[str, Any]:
    """Parse and check a profile of Docker's format (or plain OCI ``linux.seccomp``).

    Raises InvalidParameter with dockerd's words.
    """
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise InvalidParameter("Decoding seccomp profile failed: there is no defaultAction")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    actions = [profile["defaultAction"]]
    for entry in profile.get("syscalls") or ():
        if entry.get("name") and entry.get("names"):
            raise InvalidParameter(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
            )
        actions.append(entry.get("action", ""))
    for action in actions:
        check_action(action)
    return profile


def resolve(profile: dict[str, Any], capabilities: Iterable[str]) -> Section:
    """The OCI section of a profile for a container with ``capabilities`` on this machine."""
    held = frozenset(capabilities)
    native = compiler.native_architecture()
    section: Section = {"defaultAction": profile["defaultAction"], "architectures": []}
    if profile.get("defaultErrnoRet") is not None:
        section["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if profile.get("flags"):
        section["flags"] = profile["flags"]
    section["architectures"] = list(profile.get("architectures") or _mapped(profile, native))
    section["syscalls"] = [
        _rule(entry) for entry in profile.get("syscalls") or () if _applies(entry, held, native)
    ]
    return section


def _mapped(profile: dict[str, Any], native: str) -> list[str]:
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return [native]


def _applies(entry: dict[str, Any], held: frozenset[str], native: str) -> bool:
    architecture = _GO_ARCHITECTURES.get(native, "")
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if not held.issuperset(includes.get("caps") or ()):
        return False
    if held.intersection(excludes.get("caps") or ()):
        return False
    if includes.get("minKernel") and kernel_version() < _version(includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and kernel_version() >= _version(excludes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    if not found:
        raise InvalidParameter(f"Decoding seccomp profile failed: invalid kernel version: {text!r}")
    return int(found[1]), int(found[2])


def _rule(entry: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "names": entry.get("names") or [entry["name"]],
        "action": entry["action"],
    }
    if entry.get("errnoRet") is not None:
        rule["errnoRet"] = entry["errnoRet"]
    if entry.get("args"):
        rule["args"] = entry["args"]
    return rule


class SeccompCache:
    """Resolved sections and compiled programs, by profile, capabilities and library version.

    ``directory`` keeps programs across restarts; it must belong to the engine alone. Thread-safe.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._sections: dict[tuple[str, frozenset[str]], Section] = {}
        # By identity, so that the usual start hashes nothing; holding the section keeps its id taken.
        self._programs: dict[int, tuple[Section, bytes]] = {}

    def section(self, profile: str, capabilities: Iterable[str]) -> Section:
        """The OCI section for a profile's text (``""``: the built-in one). Don't change what you get."""
        key = (profile, frozenset(capabilities))
        with self._lock:
            found = self._sections.get(key)
            if found is None:
                found = resolve(parse_profile(profile or default_profile()), key[1])
                self._forget_many(self._sections)
                self._sections[key] = found
        return found

    def program(self, section: Section) -> bytes:
        """The BPF program of a section."""
        with self._lock:
            found = self._programs.get(id(section))
            if found is None:
                found = (section, self._load(section))
                self._forget_many(self._programs)
                self._programs[id(section)] = found
        return found[1]

    @staticmethod
    def _forget_many(table: dict[Any, Any], limit: int = 64) -> None:
        """Keep a table small: profiles and sets of capabilities are few in practice."""
        if len(table) >= limit:
            for key in list(table)[: limit // 2]:
                del table[key]

    def _load(self, section: Section) -> bytes:
        if self._directory is None:
            return compile_section(section)
        path = self._directory / f"{_digest(section)}.bpf"
        try:
            program = path.read_bytes()
            if program and len(program) % 8 == 0:
                return program
        except OSError:
            pass  # not there yet, or unreadable: compiled anew
        program = compile_section(section)
        _store(path, program)
        return program


def _digest(section: Section) -> str:
    """What a program depends on; the kernel's version is part of the resolved section already."""
    facts = [_FORMAT, compiler.library_version(), compiler.native_architecture(), section]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _store(path: Path, program: bytes) -> None:
    """Write by rename: a half-written program would be a filter with holes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
        temporary.write_bytes(program)
        temporary.replace(path)
    except OSError:
        return  # a full or read-only disk costs the next engine 15 ms, nothing else
