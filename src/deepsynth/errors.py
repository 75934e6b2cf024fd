"""The one exception for mistakes that a user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """A setting, file or environment that DeepSynth cannot use and that the user can fix.

    The command line prints its message as one line, without a traceback. The message says what was found, where (the
    key or the file), and what is allowed or how to fix it. Every other exception is a bug and shows its traceback.
    """


class NonFiniteError(UserError):
    """A loss or gradient that is not finite, at which training stops."""
