"""nftables through libnftables(3): the library that nft(8) itself is made of, without starting nft.

A context stays bound to the network namespace of the thread that made it. Commands are nft's own language;
one ``run`` is one transaction: all of it or nothing.

The library waits by select(2), which ends the whole process when its socket has a number from 1024 on. A process
with so many descriptors (an engine that publishes a thousand ports, its switchboard) has each transaction made by
a thread with a table of descriptors of its own, in which there is room below.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import json
import os
import threading
from typing import Any

from sampan.kernel.namespaces import CLONE_FILES, unshare

_NFT_CTX_DEFAULT = 0
_OUTPUT_JSON = 1 << 4
_OUTPUT_HANDLE = 1 << 3
_MOST = 1000  # FD_SETSIZE, less what other threads may open meanwhile
_ROOM = (64, 128)


class NftError(OSError):
    """nftables refused the commands; the text is the library's, which points at the place."""


class _Library:
    """libnftables, loaded at the first use (2 MB)."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("nftables") or "libnftables.so.1"
        lib = ctypes.CDLL(name)
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for function in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, function).argtypes = [ctypes.c_void_p]
        for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, function).argtypes = [ctypes.c_void_p]
            getattr(lib, function).restype = ctypes.c_char_p
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self.lib = lib


class Nft:
    """A context of libnftables. Calls from several threads wait for each other."""

    _library: _Library | None = None
    _loading = threading.Lock()

    def __init__(self) -> None:
        with Nft._loading:
            if Nft._library is None:
                try:
                    Nft._library = _Library()
                except OSError as failure:
                    raise NftError(
                        f"libnftables is missing: {failure}. Install the package nftables"
                    ) from failure
        self._lib = Nft._library.lib
        self._lock = threading.Lock()
        self._apart = _next_descriptor() >= _MOST
        self._context: int | None = None
        if not self._apart:
            self._open()

    def _open(self) -> None:
        self._context = self._lib.nft_ctx_new(_NFT_CTX_DEFAULT)
        if not self._context:
            raise NftError("nft_ctx_new failed: out of memory, or no permission for nftables (CAP_NET_ADMIN)")
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Nft:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the context; a second time does nothing."""
        with self._lock:
            self._apart = False
            context, self._context = self._context, None
            if context:
                self._lib.nft_ctx_free(context)

    def run(self, commands: str) -> str:
        """Run commands as one transaction; what they print. Raises NftError."""
        return self._run(commands, _OUTPUT_HANDLE)

    def query(self, command: str) -> list[dict[str, Any]]:
        """Run a ``list`` command; the objects of its JSON answer, libnftables-json(5), without metainfo."""
        answer = self._run(command, _OUTPUT_JSON | _OUTPUT_HANDLE)
        if not answer:
            return []
        return [item for item in json.loads(answer)["nftables"] if "metainfo" not in item]

    def _run(self, commands: str, flags: int) -> str:
        if self._apart:
            return _run_apart(commands, flags)
        with self._lock:
            if self._context is None:
                raise NftError("the nftables context is closed")
            self._lib.nft_ctx_output_set_flags(self._context, flags)
            status = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
            errors = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        if status:
            raise NftError(errors.decode(errors="replace").strip() or f"nftables failed: {commands[:200]}")
        return bytes(output).decode(errors="replace")


def _next_descriptor() -> int:
    """The number that the next descriptor of this process gets."""
    number = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(number)
    return number


def _run_apart(commands: str, flags: int) -> str:
    """One transaction by a thread with a table of its own, in the caller's network namespace. NftError."""
    answers: list[str | OSError] = []

    def work() -> None:
        try:
            unshare(CLONE_FILES)
            os.closerange(*_ROOM)  # in that table only
            with Nft() as nft:
                answers.append(nft._run(commands, flags))
        except OSError as failure:
            answers.append(failure)

    collects = gc.isenabled()
    gc.disable()  # what the collector closes in that thread would stay open in the others' table
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        if collects:
            gc.enable()
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def exists(nft: Nft, family: str, table: str) -> bool:
    """Whether a table is there."""
    try:
        nft.run(f"list table {family} {table}")
    except NftError:
        return False
    return True
