"""Rows put into the columns of a page, with footnotes at the foot of each column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from deepsynth.data.typesetting.pages import Frame, LayoutRow, PageLayout, TextPosition
from deepsynth.errors import UserError

#: Length of the rule above footnotes, as a share of the column.
_NOTE_RULE = 0.3
#: Heights of columns that are tried to make them equal go up by this.
_STEP_PX = 4


def fill_page(rows: Iterable[LayoutRow], frame: Frame) -> tuple[PageLayout, TextPosition | None]:
    """Put rows into the columns of a page.

    Args:
        rows: rows in reading order; they are taken only as far as the page reaches.
        frame: the columns.

    Returns:
        The page, and the position of the row that the next page begins with, ``None`` when there is none left.

    Raises:
        UserError: when a row is taller than a column.
    """
    return _Filler(frame).fill(rows)


class _Filler:
    """Fills one page."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._layout = PageLayout()
        self._column = 0
        self._top = self._y = frame.top
        self._notes: list[LayoutRow] = []
        self._has_notes = False
        #: Index of the first row and line below what spans the columns.
        self._band = (0, 0)

    def fill(self, rows: Iterable[LayoutRow]) -> tuple[PageLayout, TextPosition | None]:
        """Return the page and the position of the next one; see :func:`fill_page`."""
        frame, layout = self._frame, self._layout
        before: LayoutRow | None = None
        for row, kept in _with_followers(rows):
            if self._y == self._top and row.is_blank:
                continue
            if row.spans:
                if not self._span(row, kept):
                    self._set_notes()
                    return layout, row.position
                before = row
                continue
            if before and before.spans:
                self._y = self._top = min(self._top + before.height // 2, frame.bottom - 1)
                self._band = len(layout.rows), len(layout.lines)
            if not self._fits(row, kept):
                if row.is_blank:
                    self._y = frame.bottom
                    layout.add(row, self._column, 0, self._y)
                    continue
                if self._column + 1 == len(frame.lefts):
                    # A page that ended with a hyphen would show what its text lacks: that line is the next page's.
                    if before and before.is_divided and len(layout.lines) > 1:
                        del layout.lines[-1], layout.rows[-1]
                        self._notes = [note for note in self._notes if all(note is not own for own in before.notes)]
                        row = before
                    self._set_notes()
                    return layout, row.position
                self._set_notes()
                self._column, self._y = self._column + 1, self._top
            is_first = self._y == self._top
            if is_first and self._is_below_band():
                needed = self._needed(row, kept) + _height([*self._notes, *row.notes])
                if needed > frame.bottom - self._top:
                    self._set_notes()
                    return layout, row.position
            if is_first or row.notes:  # any other was found to fit
                self._check_height(row)
            top = self._y if is_first else self._y + row.space_before
            layout.add(row, self._column, frame.lefts[self._column], top)
            self._notes += row.notes
            self._y = top + row.height
            before = row
        self._set_notes()
        return layout, None

    def _span(self, row: LayoutRow, kept: int) -> bool:
        """Put a row across the columns, below what they hold, unless the page has no room; say whether it had."""
        is_first = not self._layout.rows
        bottom = self._top
        if self._column or self._y > self._top:
            if self._has_notes:
                return False  # they stand where the row would
            bottom = self._balance()
        top = bottom if is_first else bottom + row.space_before
        needed = self._needed(row, kept) + (row.height // 2 if row.keep_with_next else 0)
        if top + needed > self._frame.bottom - _height(self._notes) and not is_first:
            return False
        if is_first:
            self._check_height(row)
        self._layout.add(row, 0, min(self._frame.lefts), top)
        self._column, self._y, self._top = 0, top + row.height, top + row.height
        self._band = len(self._layout.rows), len(self._layout.lines)
        return True

    def _balance(self) -> int:
        """Make the columns below what spans them equally high, and return where they end."""
        layout, (first_row, first_line) = self._layout, self._band
        rows = [placed.row for placed in layout.rows[first_row:]]
        total = sum([row.height + row.space_before for row in rows])
        for height in range(total // len(self._frame.lefts), self._frame.bottom - self._top + _STEP_PX, _STEP_PX):
            places = _placed(rows, height, len(self._frame.lefts))
            if places:
                break
        else:
            return self._frame.bottom
        del layout.rows[first_row:], layout.lines[first_line:]
        for row, (column, y) in zip(rows, places, strict=True):
            layout.add(row, column, self._frame.lefts[column], self._top + y)
        return self._top + max([y + row.height for row, (_, y) in zip(rows, places, strict=True)], default=0)

    def _is_below_band(self) -> bool:
        """Return whether something spans the columns above this one, which is the first."""
        return self._column == 0 and self._top > self._frame.top and bool(self._layout.rows)

    def _fits(self, row: LayoutRow, kept: int) -> bool:
        """Return whether the column has room for a row, its footnotes, and what may not be parted from it."""
        if self._y == self._top:
            return True
        needed = self._needed(row, kept)
        notes = [*self._notes, *row.notes] if row.notes else self._notes
        return self._y + row.space_before + needed <= self._frame.bottom - _height(notes)

    def _needed(self, row: LayoutRow, kept: int) -> int:
        """Return the height of a row with what may not be parted from it, or part of that where no column holds it."""
        whole = row.height + kept
        return whole if whole <= self._frame.height else row.height + _least_kept(row)

    def _check_height(self, row: LayoutRow) -> None:
        room = self._frame.bottom - self._top
        if row.height + _height(row.notes) > room:
            what = "a line" if len(row.lines) == 1 else "a row of a table" if row.cells else "a figure"
            raise UserError(
                f"{what} is {row.height + _height(row.notes)} pixels high, more than the {room} pixels "
                "between the margins; use a smaller font_size_px or margin_px, or a higher page"
            )

    def _set_notes(self) -> None:
        """Put the footnotes of a column at its foot, below a rule."""
        if not self._notes:
            return
        gap = _gap(self._notes)
        length = round(_NOTE_RULE * self._frame.width)
        left = self._frame.width - length if self._frame.right_to_left else 0
        rule = (left, gap // 2, left + length, gap // 2 + 1)
        first = self._notes[0]
        lines = [(line, x, baseline + gap) for line, x, baseline in first.lines]
        notes = [replace(first, lines=lines, height=first.height + gap, rules=(rule,)), *self._notes[1:]]
        self._has_notes = True
        y = self._frame.bottom - _height(self._notes)
        for note in notes:
            self._layout.add(note, self._column, self._frame.lefts[self._column], y)
            y += note.height
        self._notes = []


def _placed(rows: Sequence[LayoutRow], height: int, columns: int) -> list[tuple[int, int]]:
    """Return column and top of rows in columns of a height, none when they do not fit."""
    found: list[tuple[int, int]] = []
    column = y = 0
    for row, kept in _with_followers(rows):
        top = y + row.space_before if y else 0
        if y and top + row.height + kept > height:
            column, top = column + 1, 0
        if column == columns or top + row.height > height:
            return []
        found.append((column, top))
        y = top + row.height
    return found


def _with_followers(rows: Iterable[LayoutRow]) -> Iterator[tuple[LayoutRow, int]]:
    """Yield each row with the height of those behind it that may not be parted from it, pixels."""
    chain: list[LayoutRow] = []
    for row in rows:
        chain.append(row)
        if not row.keep_with_next:
            yield from _chained(chain)
            chain = []
    yield from _chained(chain)


def _chained(chain: Sequence[LayoutRow]) -> Iterator[tuple[LayoutRow, int]]:
    total, found = 0, []
    for row in reversed(chain):
        kept = max(_least_kept(row), total)
        found.append((row, kept))
        total = row.space_before + row.height + _height(row.notes) + kept
    return reversed(found)


def _least_kept(row: LayoutRow) -> int:
    """Return the room to leave below a line that may not end a column, whatever follows."""
    return row.height * 3 // 2 if row.keep_with_next and not row.pictures and not row.cells else 0


def _gap(notes: Sequence[LayoutRow]) -> int:
    """Return the room for the rule above footnotes, pixels."""
    return notes[0].height // 2


def _height(notes: Sequence[LayoutRow]) -> int:
    """Return the room that footnotes need, pixels."""
    return sum([note.height for note in notes]) + _gap(notes) if notes else 0
