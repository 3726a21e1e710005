"""``python -m sampan.runtime.oci``: the OCI runtime command line."""

from __future__ import annotations

import sys

from sampan.runtime.oci.main import main

sys.exit(main())
