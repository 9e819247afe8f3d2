"""The one error that is the user's to mend."""

from __future__ import annotations

from selfdistill.core.addresses import hidden


class UserError(Exception):
    """Bad input: the message is one line that says what, where, what was expected and how to fix it.

    The command line prints it without a traceback and exits with 2. Secrets that tell by their form are cut out of it,
    so that one may quote what was given.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hidden(message))
