"""``serve-registry --notify``: what was done is told, in order, whatever ends in between."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sampan.registryd.events import Queue
from tests.registry.conftest import free_port
from tests.registry.serving import Served, digest_of


class Listener(ThreadingHTTPServer):
    """Collects events; the first answers are errors."""

    daemon_threads = True

    def __init__(self, failures: int, port: int = 0, refused: str = "") -> None:
        super().__init__(("127.0.0.1", port), Hook)
        self.refused = refused
        self.failures = failures
        self.events: list[dict[str, Any]] = []
        self.fields: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Hook(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.failures -= 1
        failing = self.server.failures >= 0
        refused = self.server.refused and self.server.refused in body.decode()
        if not failing and not refused:
            self.server.events += json.loads(body)["events"]
            self.server.fields = dict(self.headers)
        self.send_response(503 if failing else 400 if refused else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_notifications(serve: Callable[..., Served], tmp_path: Path) -> None:
    listener = Listener(failures=2)
    url = f"http://127.0.0.1:{listener.server_address[1]}/hook"
    served = serve("--notify", url, "--notify-header", "Authorization: Bearer secret")
    digest, raw = served.image("a", "x")
    served.ask("GET", "/v2/a/manifests/x")
    served.ask("HEAD", "/v2/a/manifests/x")
    served.ask("POST", f"/v2/b/blobs/uploads/?mount={digest_of(b'layer')}&from=a")
    served.ask("DELETE", "/v2/a/manifests/x")
    served.stop()  # delivers what is queued, as far as its grace reaches
    served.start()
    deadline = time.monotonic() + 60
    while len(listener.events) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    served.stop()
    listener.shutdown()
    listener.server_close()
    events = list({event["id"]: event for event in listener.events}.values())  # the end may repeat one
    actions = [(event["action"], event["target"]["repository"]) for event in events]
    assert actions == [*[("push", "a")] * 3, ("pull", "a"), ("mount", "b"), ("delete", "a")]
    push = events[2]
    assert push["target"]["tag"] == "x" and push["target"]["digest"] == digest
    assert push["target"]["size"] == push["target"]["length"] == len(raw)
    assert push["target"]["url"] == f"http://{served.address}/v2/a/manifests/{digest}"
    assert push["request"]["method"] == "PUT" and push["source"]["instanceID"]
    assert listener.fields["Authorization"] == "Bearer secret"
    assert listener.fields["Content-Type"] == "application/vnd.docker.distribution.events.v1+json"


def told(listener: Listener, count: int) -> list[str]:
    """The tags that were told of, once there are so many different ones."""
    deadline = time.monotonic() + 90
    while (
        len(set(tags := [event["target"]["tag"] for event in listener.events if "tag" in event["target"]]))
        < count
    ):
        assert time.monotonic() < deadline, tags
        time.sleep(0.02)
    return tags


def test_what_could_not_be_told_is_told_after_kill_9(serve: Callable[..., Served]) -> None:
    """In order, once each; an endpoint that was away gets its own queue, another one isn't held up."""
    there, port = Listener(failures=0), free_port()
    urls = [f"http://127.0.0.1:{number}/hook" for number in (port, there.server_address[1])]
    served = serve("--notify", urls[0], "--notify", urls[1])
    _, raw = served.image("a", "t0")
    for number in range(1, 30):
        assert served.put("a", f"t{number}", raw).status == 201
        if number % 10 == 0:
            served.kill()
            served.start()
    wanted = [f"t{number}" for number in range(30)]
    assert set(told(there, 30)) == set(wanted)  # a kill between delivery and note tells it twice
    served.kill()
    away = Listener(failures=1, port=port)
    served.start()
    assert told(away, 30) == wanted
    assert len({event["id"] for event in away.events}) == len(away.events)
    assert {event["source"]["instanceID"] for event in away.events} > {away.events[0]["source"]["instanceID"]}
    served.stop()
    served.flags = ("--notify", urls[1])
    served.start()  # nothing waits any more
    assert "dropped" not in served.errors()
    for listener in (there, away):
        listener.shutdown()
        listener.server_close()


def test_what_an_endpoint_refuses_holds_nothing_up(serve: Callable[..., Served]) -> None:
    listener = Listener(failures=3, refused="poison")
    served = serve("--notify", f"http://127.0.0.1:{listener.server_address[1]}/hook")
    _, raw = served.image("a", "one")
    for tag in ("poison", "two", "three"):
        served.put("a", tag, raw)
    assert told(listener, 3) == ["one", "two", "three"]
    served.stop()
    listener.shutdown()
    listener.server_close()


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "events.db", limit=3)
    assert [queue.add(["one", "two"], str(number).encode()) for number in range(5)] == [0, 0, 0, 2, 2]
    queue.remove("two", queue.first("two", 2)[-1][0])
    queue.close()
    again = Queue(tmp_path / "events.db", limit=3)
    assert [event for _, event in again.first("one", 9)] == [b"2", b"3", b"4"]
    assert [event for _, event in again.first("two", 9)] == [b"4"]
    assert (again.add(["one", "two"], b"5"), again.keep(["two"])) == (1, 3)
    assert again.first("one", 9) == []
    again.close()
