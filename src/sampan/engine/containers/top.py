"""``docker top``: the container's processes in the words of ps(1)."""

from __future__ import annotations

import asyncio
from typing import Any

from sampan import errors
from sampan.engine.containers.context import Containers
from sampan.engine.containers.lifecycle import check_running


async def top(containers: Containers, reference: str, ps_args: str) -> dict[str, Any]:
    """``Titles`` and ``Processes`` of ``ps`` run on the host with these arguments.

    Conflict when the container doesn't run; InvalidParameter for arguments that leave out the pid;
    SystemFailure with ps's own words.
    """
    container = containers.get(reference)
    check_running(container)
    live = containers.live(container)
    if container.state.status == "restarting" or live.cgroup is None:
        raise errors.Conflict(f"container {container.id} is restarting, wait until the container is running")
    pids = await asyncio.to_thread(live.cgroup.pids)
    _check_arguments(ps_args)
    found = await _run_ps(ps_args.split(), pids)
    containers.publish(container, "top")
    return found


def _check_arguments(text: str) -> None:
    """``-o x=pid`` renames a column so that pids can't be told from other numbers; Docker refuses it, too."""
    for word in text.split():
        if "=" in word and "pid" not in word.partition("=")[0] and "pid" in word:
            raise errors.InvalidParameter(f'specifying "{word}" is not allowed')


async def _run_ps(words: list[str], pids: list[int]) -> dict[str, Any]:
    status, out, err = await _call([*words, f"-q{','.join(map(str, pids))}"])
    if status != 0:
        # Some arguments (a forest) don't go with a choice of processes.
        status, out, err = await _call(words)
    if status != 0:
        lines = err.decode("utf-8", "replace").splitlines()
        raise errors.SystemFailure(f"ps: {lines[0] if lines else f'exit status {status}'}")
    return _parse(out.decode("utf-8", "replace"), set(pids))


async def _call(words: list[str]) -> tuple[int, bytes, bytes]:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise errors.SystemFailure(
            'exec: "ps": executable file not found in $PATH', hint="Install procps on this host."
        ) from None
    out, err = await process.communicate()
    return process.returncode or 0, out, err


def _parse(text: str, pids: set[int]) -> dict[str, Any]:
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise errors.SystemFailure("Couldn't find PID field in ps output")
    column = titles.index("PID")
    processes = []
    ours = False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        pid = fields[column] if len(fields) > column else ""
        # A thread's line has "-" for the pid and follows its process's.
        ours = ours if pid == "-" else pid.isdigit() and int(pid) in pids
        if ours:
            processes.append(fields)
    return {"Titles": titles, "Processes": processes}
