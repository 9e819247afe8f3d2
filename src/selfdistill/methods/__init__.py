"""The methods by name. A new one is a file that says what differs from vanilla, and a line here."""

from __future__ import annotations

from selfdistill.methods import sdft, vanilla
from selfdistill.methods.base import Method

METHODS: dict[str, Method] = {"vanilla": vanilla.METHOD, "sdft": sdft.METHOD}

USUAL = ("vanilla", "sdft")
"""What a run trains."""
