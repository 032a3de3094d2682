"""What holds for every test: an example of Hypothesis may take as long as a busy machine lets it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
