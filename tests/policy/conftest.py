"""Property tests are judged by what they find, never by how long it took on a machine that others share."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
