"""Where builds keep what they need while they run. Apart from the builder, which an idle engine hasn't loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sampan.engine.config import EngineConfig
from sampan.storage.removal import remove_tree


def root(config: EngineConfig) -> Path:
    """The directory of contexts, upper directories of steps, and downloads; one below it for each build."""
    return config.data_root / "build"


def secrets(config: EngineConfig) -> Path:
    """The directory of secrets that steps mount."""
    return config.exec_root / "build"


def sweep(config: EngineConfig) -> None:
    """Remove what a crash left of earlier builds."""
    for path in (root(config), secrets(config)):
        with contextlib.suppress(OSError):
            remove_tree(str(path))
    root(config).mkdir(mode=0o700, parents=True, exist_ok=True)
