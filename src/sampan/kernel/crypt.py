"""Password hashes of the C library: crypt_r(3) of libxcrypt, which knows what htpasswd(1) and shadow(5) hold."""

from __future__ import annotations

import ctypes
import ctypes.util
import hmac

_DATA = 32768  # struct crypt_data of libcrypt.so.1
_LIBRARY = "libcrypt.so.1"


def available() -> bool:
    """Whether the library is on this machine (Debian's libcrypt1, which login needs, too)."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def matches(password: bytes, hashed: bytes) -> bool:
    """Whether a password has this hash (``$2y$…``, ``$6$…``, ``$y$…``). False for a hash that isn't known.

    Takes as long as the hash wants, while other threads run. OSError when there is no libcrypt.
    """
    if b"\0" in password:
        return False
    function = ctypes.CDLL(_LIBRARY).crypt_r
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p]
    found = function(password, hashed, ctypes.create_string_buffer(_DATA + 1024))
    return found is not None and not found.startswith(b"*") and hmac.compare_digest(found, hashed)
