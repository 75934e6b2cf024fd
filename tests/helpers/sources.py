"""What tests of sources share."""

from __future__ import annotations

from typing import Any

import pytest

from deepsynth.errors import UserError


def error_of(source: Any) -> str:
    """Return the message of the error that walking a source raises; it must be one line."""
    with pytest.raises(UserError) as caught:
        list(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)
