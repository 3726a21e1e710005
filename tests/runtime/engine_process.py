"""An engine for tests to kill: starts plans from a file, says so on stdout, then waits.

``python -m tests.runtime.engine_process PLANS.json``
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sampan.runtime.supervisor import Supervisor


async def main(path: str) -> None:
    """Launch every plan of the file, print the processes, wait to be killed."""
    supervisor = Supervisor()
    await supervisor.start()
    started = []
    for plan in json.loads(Path(path).read_text()):
        process = await supervisor.launch(plan)
        await process.proceed()
        started.append([process.pid, process.monitor_pid, process.started_ns])
    zygote = supervisor.zygote_pid
    sys.stdout.write(json.dumps({"zygote": zygote, "started": started}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
