"""The contracts between the stages: ``Document``, ``Page``, ``Sample``, ``Batch``.

Shape legend, used in every docstring of the package:
    B   samples in a batch            T  tokens of a sequence (padded)
    P   tokens of a prompt (padded)   V  image views (pages) over the whole batch
    N   local tiles over the batch    S, S'  side of a global view and of a local tile, in pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from deepsynth.io.notebook import ShownAsPng
from deepsynth.io.paged_file import PagedFile

if TYPE_CHECKING:
    import torch
    from PIL import Image

Task = Literal["transcribe", "summarize"]


#: Stands between the texts of the pages of a scanned document, as in the output of many OCR programs.
PAGE_BREAK = "\f"


@dataclass(frozen=True, slots=True)
class Document:
    """One raw document, before rendering.

    Attributes:
        id: unique within a source.
        text: text to render; for a scan, its transcription ("" when unknown), with a form feed between the pages
            of a :class:`PagedFile` whose pages are samples of their own.
        target: text that the model is to write, or ``None`` when that is ``text`` itself.
        image: a scan: its file, content or pixels, several of them, or the pages of a file; nothing is rendered then.
        language: BCP-47 code, if the source gives one.
        source: name of the collection, if the source gives one; metrics may be grouped by it.
        prompt: the document's own prompt; ``None`` for that of the task.
        one_sample: whether all pages of a scan together are one sample with one text.
        blank: whether the scan is known to show no text, and is to be learned so.
        fields: values of other fields of its row, by name.
    """

    id: str
    text: str
    target: str | None = None
    image: Path | bytes | Image.Image | tuple[Path | bytes | Image.Image, ...] | PagedFile | None = None
    language: str | None = None
    source: str | None = None
    prompt: str | None = None
    one_sample: bool = False
    blank: bool = False
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def task(self) -> Task:
        """``transcribe`` without a target, ``summarize`` with one."""
        return "transcribe" if self.target is None else "summarize"

    @property
    def is_whole(self) -> bool:
        """Whether the document is one sample with all its pages, instead of a sample a page."""
        return self.one_sample or self.target is not None

    @property
    def text_is_known(self) -> bool:
        """Whether it is known what the model is to write."""
        known = bool(self.text or self.fields) or self.target is not None or self.blank
        return known or (isinstance(self.image, PagedFile) and self.image.has_text)


#: (left, top, right, bottom) in pixels of the page, origin at the top left.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Word:
    """One drawn word (or unbreakable run) and its box."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Line:
    """One drawn line in reading order.

    Attributes:
        text: text of the line.
        box: smallest box around its glyphs.
        words: its words.
        font: names of its fonts.
        font_size_px: size of its first run.
        ending: what ends it on the page: a newline and those of the empty lines after it, a tab after a cell of a
            table, and before a newline the hyphen that is drawn and is not in ``text``.
    """

    text: str
    box: Box
    words: tuple[Word, ...] = ()
    font: str = ""
    font_size_px: float = 0.0
    ending: str = "\n"


class BlockMarkdown(NamedTuple):
    """A block as Markdown.

    Attributes:
        markdown: its source; a table is HTML.
        before: what stands between it and the block before it in the Markdown of the page.
        pipes: a table with pipes, where Markdown can say it so; else empty.
    """

    markdown: str
    before: str
    pipes: str = ""


@dataclass(frozen=True, slots=True)
class PageBlock:
    """A block of the document as far as one column of a page shows it.

    Attributes:
        label: its kind, such as ``title`` or ``table``, by the name that DeepSeek-OCR gives it.
        written: returns the block as Markdown, which only some targets need.
        lines: index of its first line in ``Page.lines``, and of the first line behind it.
        areas: boxes of what it shows besides text: rules, pictures.
    """

    label: str
    written: Callable[[], BlockMarkdown]
    lines: tuple[int, int]
    areas: tuple[Box, ...] = ()

    @property
    def markdown(self) -> str:
        """Its source as Markdown; a table is HTML."""
        return self.written().markdown

    @property
    def before(self) -> str:
        """What stands between it and the block before it in the Markdown of the page."""
        return self.written().before

    @property
    def pipes(self) -> str:
        """A table with pipes, where Markdown can say it so; else empty."""
        return self.written().pipes


@dataclass(frozen=True, slots=True)
class Page(ShownAsPng):
    """A rendered (or scanned) image with the text that it shows.

    Attributes:
        image: RGB image.
        text: text on the page, in reading order; from the pipeline on, what the model is to write.
        lines: lines with their boxes; empty for a scan.
        number: position in its document, from 0.
        blocks: blocks in reading order; empty for a scan.
        prompt: prompt that asks for ``text``; ``None`` for that of the task.
        stats: counts of the renderer by name (characters cut, replaced glyphs, ...).
    """

    image: Image.Image
    text: str
    lines: tuple[Line, ...] = ()
    number: int = 0
    blocks: tuple[PageBlock, ...] = ()
    prompt: str | None = None
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Sample:
    """Model inputs of one page (transcription) or one document (summarization).

    Attributes:
        id: unique; ``{document_id}#{page}`` when a document has several samples.
        document_id: id of the document; predictions are joined by it.
        page: position of the page within the document, 0 for summarization.
        input_ids: (T,) prompt, then target and EOS.
        labels: (T,) -100 on the prompt.
        prompt_length: number of prompt tokens, so ``input_ids[:prompt_length]`` is the prompt.
        images: model inputs of the pages by Hugging Face's own names (``pixel_values`` (V, 3, S, S), …). Where there is
            a ``pixel_table``, views or patches are bytes (V, 3, S, S), or (V, 1, S, S) when all are gray.
        target: text of the labels.
        prompt: prompt as text, with ``<image>`` for the pages.
        language: language code of the document, or ``None``.
        source: source name of the document, or ``None``.
        pixel_table: values that the model takes, for ``io.pixels.look_up``; ``None`` when ``images`` has values.
        sizes: width and height of each page, pixels.
        token_inputs: other model inputs with a value for each token, (T,), by Hugging Face's own names.
    """

    id: str
    document_id: str
    page: int
    input_ids: torch.Tensor
    labels: torch.Tensor
    prompt_length: int
    images: dict[str, torch.Tensor]
    target: str
    prompt: str
    language: str | None = None
    source: str | None = None
    pixel_table: torch.Tensor | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    token_inputs: dict[str, torch.Tensor] = field(default_factory=dict)


#: Image inputs that are counts of tiles or patches, not pixels. Reading them from a GPU waits for all its work.
READ_ON_HOST = ("num_local_patches", "patches_grid", "image_grid_thw")


@dataclass(slots=True)
class Batch:
    """Samples collated for a step. Not frozen: Lightning moves it between devices in place.

    Attributes:
        tokens: right-padded, or packed into one row: ``input_ids`` (B, T), ``attention_mask`` (B, T), ``labels``
            (B, T), -100 where nothing is learned, for a packed row ``position_ids`` (1, T), and the ``token_inputs``.
        prompt_tokens: left-padded: ``input_ids`` (B, P), ``attention_mask`` (B, P) and the ``token_inputs``.
        images: ``pixel_values`` (V, 3, S, S), ``pixel_values_local`` (N, 3, S', S'), ... by Hugging Face's own names.
            Where there is a ``pixel_table``, views are bytes of three channels or one; :meth:`with_pixel_values`.
        targets: B texts.
        ids: B sample ids.
        document_ids: B document ids.
        pages: B page numbers.
        languages: B language codes or ``None``.
        sources: B source names or ``None``.
        prompt_texts: B prompts as text.
        pixel_table: values that the model takes, for ``io.pixels.look_up``; ``None`` when ``images`` has values.
        sizes: for each of B samples, width and height of its pages, pixels.
        moved_from: ``tokens`` as they are on the host, of a batch that :meth:`to` has moved to a device.
    """

    tokens: dict[str, torch.Tensor]
    prompt_tokens: dict[str, torch.Tensor]
    images: dict[str, torch.Tensor]
    targets: list[str]
    ids: list[str]
    document_ids: list[str]
    pages: list[int]
    languages: list[str | None]
    sources: list[str | None]
    prompt_texts: list[str]
    pixel_table: torch.Tensor | None = None
    sizes: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    moved_from: dict[str, torch.Tensor] | None = None

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What ``model(**inputs)`` takes: the tokens and the images, in a new dictionary."""
        return {**self.tokens, **self.with_pixel_values().images}

    @property
    def prompts(self) -> dict[str, torch.Tensor]:
        """What ``model.generate(**prompts)`` takes: the tokens of the prompts and the images, in a new dictionary."""
        return {**self.prompt_tokens, **self.with_pixel_values().images}

    def with_pixel_values(self) -> Batch:
        """Return the batch with what the model takes in place of bytes, made on their device; itself without bytes."""
        if self.pixel_table is None:
            return self
        from deepsynth.io.pixels import pixel_values

        return replace(self, images=pixel_values(self.images, self.pixel_table), pixel_table=None)

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return the batch with ``function`` applied to each of its tensors."""
        tokens, prompt_tokens, images = (
            {name: function(tensor) for name, tensor in tensors.items()}
            for tensors in (self.tokens, self.prompt_tokens, self.images)
        )
        table = None if self.pixel_table is None else function(self.pixel_table)
        return replace(self, tokens=tokens, prompt_tokens=prompt_tokens, images=images, pixel_table=table)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, copied without waiting from pinned memory; what the host reads stays there."""
        moved = self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))
        moved.moved_from = self.moved_from or self.tokens
        moved.images.update((name, self.images[name]) for name in READ_ON_HOST if name in self.images)
        return moved

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU; torch's DataLoader calls it."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.ids)
