"""Image archives: ``load`` and ``save``, the two doors of ``loading`` and ``saving``."""

from __future__ import annotations

from sampan.images.loading import Loaded, load
from sampan.images.saving import save

__all__ = ["Loaded", "load", "save"]
