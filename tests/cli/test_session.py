"""The loop that moves an attached container's bytes, over a socket whose other end is slow."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

# The engine's side: begins late and reads slowly; says what it got.
SCRIPT = """
import hashlib, socket, threading, time
from sampan.cli.session import Session
from sampan.client.transport import SocketStream

ours, theirs = socket.socketpair()
seen = hashlib.sha256()

def read():
    time.sleep(0.3)
    while data := theirs.recv(16384):
        seen.update(data)
        time.sleep(0.001)
    theirs.close()

thread = threading.Thread(target=read)
thread.start()
stream = SocketStream(ours)
stream.recv = lambda: ours.recv(65536)
Session(stream, tty=False, stdin=True).run()
thread.join()
print(seen.hexdigest())
"""


def test_stdin_that_ends_while_much_is_unsent() -> None:
    data = os.urandom(2 << 20)
    # cat ends, and with it the pipe, when its last piece is in the pipe: long before all is sent.
    feeder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    session = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=feeder.stdout, stdout=subprocess.PIPE)
    assert feeder.stdin is not None and feeder.stdout is not None
    feeder.stdout.close()
    feeder.stdin.write(data)
    feeder.stdin.close()
    answer, _ = session.communicate(timeout=30)
    assert feeder.wait() == 0
    assert answer.decode().strip() == hashlib.sha256(data).hexdigest()
