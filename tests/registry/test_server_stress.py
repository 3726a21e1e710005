"""Many clients push, mount, ask and delete while collections run without a pause: nothing promised is lost."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.registry.serving import CONFIG, INDEX, LAYER, MANIFEST, Served, code_of, digest_of
from tests.registry.test_conformance import WAYS, stored

LIFE = 5  # seconds
PROMISED = LIFE / 2 - 1  # for which a client can build on an answer; times are kept in whole seconds
LAYERS = [f"layer {number} ".encode() * 50 for number in range(12)]
REPOSITORIES = ("a", "b", "team/c")


class Pusher(threading.Thread):
    """A client that behaves as engines do: asks before it uploads, mounts where it can, pushes the manifest last."""

    def __init__(self, served: Served, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self.served, self.random, self.until = served, random.Random(seed), until
        self.begun = 0.0
        self.name_, self.lost, self.pushed = f"t{seed}", list[str](), 0

    def run(self) -> None:
        try:
            while time.monotonic() < self.until or (self.pushed < 4 and time.monotonic() < self.until + 60):
                self.begun = time.monotonic()
                try:
                    self.turn()
                except AssertionError:
                    if self.in_time():
                        raise
        except BaseException as error:
            self.lost.append(repr(error))
            raise

    def in_time(self) -> bool:
        """Whether what was promised at the turn's begin still holds: a machine under load may be too late."""
        return time.monotonic() - self.begun < PROMISED

    def turn(self) -> None:
        repository, chance = self.random.choice(REPOSITORIES), self.random
        layers = chance.sample(LAYERS, chance.randint(1, 4))
        note = str(chance.random())
        config = json.dumps({"os": "linux", "architecture": "amd64", "author": note}).encode()
        blobs = [config, *layers]
        for data in blobs:
            self.bring(repository, data)
        time.sleep(chance.choice((0, 0, PROMISED / 2)))
        kinds = [CONFIG, *[LAYER] * len(layers)]
        pointers = [
            {"mediaType": kind, "digest": digest_of(data), "size": len(data)}
            for kind, data in zip(kinds, blobs, strict=True)
        ]
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": pointers[0], "layers": pointers[1:]}
        raw = json.dumps(document).encode()
        tags = [(self.name_, raw, MANIFEST)]
        if chance.random() < 0.4:
            entry = {"mediaType": MANIFEST, "digest": digest_of(raw), "size": len(raw)}
            index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
            tags = [(digest_of(raw), raw, MANIFEST), (self.name_, index, INDEX)]
        for reference, body, kind in tags:
            answer = self.served.put(repository, reference, body, kind)
            if answer.status != 201:
                if self.in_time():
                    self.lost.append(f"put {kind}: {code_of(answer)} {answer.data!r}")
                return
        self.pushed += 1
        self.check(repository, [digest_of(data) for data in blobs], [digest_of(body) for _, body, _ in tags])
        for _, body, _ in reversed(tags if chance.random() < 0.7 else []):
            self.served.ask("DELETE", f"/v2/{repository}/manifests/{digest_of(body)}")

    def bring(self, repository: str, data: bytes) -> None:
        digest = digest_of(data)
        if self.served.ask("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
            return
        other = self.random.choice(REPOSITORIES)
        query = f"mount={digest}&from={other}" if self.random.random() < 0.5 else ""
        answer = self.served.ask("POST", f"/v2/{repository}/blobs/uploads/?{query}") if query else None
        if answer is None or answer.status != 201:
            answer = self.random.choice(WAYS)(self.served, repository, digest, data)
        if answer.status != 201 and self.in_time():
            self.lost.append(f"blob: {answer.status} {answer.data!r}")

    def check(self, repository: str, blobs: list[str], manifests: list[str]) -> None:
        """All that was acknowledged is there."""
        for place in (*[f"blobs/{one}" for one in blobs], *[f"manifests/{one}" for one in manifests]):
            answer = self.served.ask("GET", f"/v2/{repository}/{place}")
            if answer.status != 200 or digest_of(answer.data) != place.partition("/")[2]:
                self.lost.append(f"{place}: {answer.status}")


def test_nothing_promised_is_lost_and_nothing_else_stays(serve: Callable[..., Served]) -> None:
    served = serve(
        *[f"--{kind}-life={LIFE}s" for kind in ("unneeded", "untagged", "upload")], "--collect-every", "5ms"
    )
    until = time.monotonic() + 2 * LIFE
    pushers = [Pusher(served, seed, until) for seed in range(6)]
    for pusher in pushers:
        pusher.start()
    for pusher in pushers:
        pusher.join(90)
    assert [fault for pusher in pushers for fault in pusher.lost] == []
    assert min(pusher.pushed for pusher in pushers) > 3
    every_tag_is_whole(served)
    for name in REPOSITORIES:
        for tag in served.json(f"/v2/{name}/tags/list")["tags"]:
            served.ask("DELETE", f"/v2/{name}/manifests/{tag}")
    served.kill()  # and what a kill leaves goes as well
    served.start()
    deadline = time.monotonic() + 60
    while stored(served) or list((served.data / "uploads").iterdir()):
        assert time.monotonic() < deadline, stored(served)
        served.signal(signal.SIGUSR1)
        time.sleep(0.1)
    assert "Traceback" not in served.errors()


def every_tag_is_whole(served: Served) -> None:
    """All that tags lead to is there."""
    for name in REPOSITORIES:
        for tag in served.json(f"/v2/{name}/tags/list")["tags"]:
            waiting: list[Any] = [served.json(f"/v2/{name}/manifests/{tag}")]
            while waiting:
                document = waiting.pop()
                for entry in document.get("manifests", []):
                    waiting.append(served.json(f"/v2/{name}/manifests/{entry['digest']}"))
                for entry in (document["config"], *document["layers"]) if "config" in document else ():
                    assert served.ask("HEAD", f"/v2/{name}/blobs/{entry['digest']}").status == 200
