"""Parts of a work that several processes or machines share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from deepsynth.errors import UserError


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the work: number k of it belongs to the shard k modulo ``count``.

    Attributes:
        index: from 0.
        count: number of shards.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``I/N`` names.

        Raises:
            UserError: for anything but a number from 0 and a larger one.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or int(found[1]) >= int(found[2]):
            raise UserError(f"shard is {text!r}; it must be I/N with I from 0 to N - 1, such as 0/4")
        return cls(int(found[1]), int(found[2]))

    def over(self, rank: int, ranks: int) -> Shard:
        """Return the part that a rank has of this one."""
        return Shard(self.index * ranks + rank, self.count * ranks)

    @classmethod
    def chosen(cls, text: str | None) -> Shard:
        """Return the shard that ``I/N`` names, by default torchrun's rank, or all.

        Raises:
            UserError: as :meth:`parse`.
        """
        return cls.parse(text or f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}")
