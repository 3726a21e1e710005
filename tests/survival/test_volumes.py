"""What a crash in the middle of making or removing volumes leaves is put in order by the next start."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing
from typing import Any

from tests.conftest import import_busybox


def test_interrupted_volumes(new_sampand: Any) -> None:
    daemon = new_sampand()
    import_busybox(daemon)
    for name in ("kept", "going"):
        daemon.docker("volume", "create", name)
        daemon.docker("run", "--rm", "--network", "none", "-v", f"{name}:/v", "busybox", "touch", "/v/file")
    daemon.docker("create", "--name", "holder", "-v", "/anonymous", "busybox")
    [anonymous] = daemon.docker("volume", "ls", "-qf", "label=com.docker.volume.anonymous").stdout.split()
    daemon.docker("rm", "holder")  # without -v the volume stays
    daemon.kill()
    volumes = daemon.root / "volumes"
    (volumes / "begun" / "_data").mkdir(parents=True)  # made, its row not yet written
    (volumes / "foreign" / "_data").mkdir(parents=True)
    (volumes / "foreign" / "_data" / "file").touch()
    mark = hashlib.sha256(b"going").hexdigest()[:32]
    (volumes / "going").rename(volumes / f".removing-{mark}-0011")  # removed, its row not yet deleted
    with closing(sqlite3.connect(daemon.root / "sampan.db")) as db, db:
        # `rm -v` came as far as the container's row
        db.execute("INSERT INTO cleanup (kind, argument) VALUES ('volume', ?)", (anonymous,))
    daemon.start()
    deadline = 100
    while len(list(volumes.iterdir())) > 2 and (deadline := deadline - 1):
        time.sleep(0.05)
    assert sorted(path.name for path in volumes.iterdir()) == ["foreign", "kept"]
    assert daemon.docker("volume", "ls", "-q").stdout.split() == ["kept"]
    listed = daemon.docker("run", "--rm", "--network", "none", "-v", "kept:/v", "busybox", "ls", "/v").stdout
    assert listed == "file\n"
