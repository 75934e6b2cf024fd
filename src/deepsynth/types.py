"""The contracts between the stages: ``Document``, ``Page``, ``Sample``, ``Batch``.

Shape legend, used in every docstring of the package:
    B   samples in a batch            T  tokens of a sequence (padded)
    P   tokens of a prompt (padded)   V  image views (pages) over the whole batch
    N   local tiles over the batch    S  side of a global view, in pixels
    S'  side of a local tile, in pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from PIL import Image

Task = Literal["transcribe", "summarize"]


@dataclass(frozen=True, slots=True)
class Document:
    """One raw document, before rendering.

    Attributes:
        id: unique within a source.
        text: what is rendered; for a scan, its known transcription ("" when unknown).
        target: what the model shall write, or ``None`` when that is the text itself.
        image: a scan or photograph: its file, the content of one, or pixels; such a document skips the renderer.
        language: BCP-47 code when the source names it.
        source: the name of the collection when the source names it; metrics may be grouped by it.
    """

    id: str
    text: str
    target: str | None = None
    image: Path | bytes | Image.Image | None = None
    language: str | None = None
    source: str | None = None

    @property
    def task(self) -> Task:
        """Transcription without a target, summarisation with one."""
        return "transcribe" if self.target is None else "summarize"


#: (left, top, right, bottom) in pixels of the page, origin at the top left.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Word:
    """One drawn word (or unbreakable run) and its place."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Line:
    """One drawn line in reading order."""

    text: str
    box: Box
    words: tuple[Word, ...] = ()
    font: str = ""
    font_size_px: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered (or scanned) image with the text that it really shows.

    Attributes:
        image: RGB.
        text: the text on the page, in reading order.
        lines: empty for a scan.
        number: position in its document, from 0.
        stats: what the renderer counted (characters cut, replaced glyphs, …), by name.
    """

    image: Image.Image
    text: str
    lines: tuple[Line, ...] = ()
    number: int = 0
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Sample:
    """What the processor makes of one page (transcription) or one document (summarisation).

    Attributes:
        id: of the sample; ``{document_id}#{page}`` when a document has several samples.
        document_id: of the document; predictions are joined by it.
        page: position of the page within the document, 0 for summarisation.
        input_ids: (T,) prompt, then target and EOS.
        labels: (T,) -100 on the prompt.
        prompt_length: number of prompt tokens, so ``input_ids[:prompt_length]`` is the prompt.
        images: model inputs of the pages by Hugging Face's own names (``pixel_values`` (V, 3, S, S), …).
        target: the text that the labels spell.
        prompt: the prompt as text, ``<image>`` standing for the pages.
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


@dataclass(slots=True)
class Batch:
    """Samples collated for a step. Not frozen: Lightning moves it between devices in place.

    Attributes:
        inputs: what ``model(**inputs)`` takes, right-padded: ``input_ids`` (B, T), ``attention_mask`` (B, T),
            ``labels`` (B, T), ``pixel_values`` (V, 3, S, S), … by Hugging Face's own names.
        prompts: what ``generate(**prompts)`` takes, left-padded: ``input_ids`` (B, P), ``attention_mask`` (B, P)
            and the same images.
        targets: B texts.
        ids: B sample ids.
        document_ids: B document ids.
        pages: B page numbers.
        languages: B language codes or ``None``.
        sources: B source names or ``None``.
        prompt: the prompt as text (one task, one prompt); stored with the adapter.
    """

    inputs: dict[str, torch.Tensor]
    prompts: dict[str, torch.Tensor]
    targets: list[str]
    ids: list[str]
    document_ids: list[str]
    pages: list[int]
    languages: list[str | None]
    sources: list[str | None]
    prompt: str

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory: torch's loader asks for it and leaves other objects as they are.

        Only from there is a copy to a GPU not waited for. Pixels are shared by both views and copied once.
        """
        pinned: dict[int, torch.Tensor] = {}

        def of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            for tensor in tensors.values():
                if id(tensor) not in pinned:
                    pinned[id(tensor)] = tensor.pin_memory()
            return {name: pinned[id(tensor)] for name, tensor in tensors.items()}

        return replace(self, inputs=of(self.inputs), prompts=of(self.prompts))

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.ids)
