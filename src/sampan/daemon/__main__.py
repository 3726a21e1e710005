"""``python -m sampan.daemon``: the same as ``sampand``."""

from __future__ import annotations

import sys

from sampan.daemon.start import main

if __name__ == "__main__":
    sys.exit(main())
