"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message is one line that says what, where, what was expected and how to fix it.

    The command line prints it without a traceback and exits with 2.
    """
