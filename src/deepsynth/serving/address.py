"""Where a service listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsynth.errors import UserError

Host = Literal["127.0.0.1", "0.0.0.0", "::"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens, and whom it answers.

    Attributes:
        host: 127.0.0.1 is this machine alone; 0.0.0.0 and :: are all that reach it.
        port: 1024 to 65535.
        api_key_file: file with the key that requests give as ``Authorization: Bearer KEY``; by default all are
            answered.
    """

    host: Host = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse ports that LitServe does not take.

        Raises:
            UserError: with the port.
        """
        if not 1024 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; it must be from 1024 to 65535")

    def api_key(self) -> str | None:
        """Return the key.

        Raises:
            UserError: when its file cannot be read, or is empty.
        """
        if self.api_key_file is None:
            return None
        try:
            key = self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api_key_file is {self.api_key_file}, which cannot be read: {error}") from None
        if not key:
            raise UserError(f"--api_key_file is {self.api_key_file}, which is empty; write the key into it")
        return key
