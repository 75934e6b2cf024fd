"""``deepsynth models``: what models there are, what their pages take, and what of the engine works for them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepsynth.cli.help.subcommands import examples
from deepsynth.errors import UserError
from deepsynth.io.text import shortened, visible

if TYPE_CHECKING:
    from deepsynth.models.family import Family

#: A page of A4 at 150 dpi, width and height in pixels.
_A4_PX = (1240, 1754)
#: Rank for which the parameters of adapters are counted: the default.
_RANK = 16


def show_models(args: Sequence[str]) -> int:
    """Run ``deepsynth models [NAME]``.

    Args:
        args: without the subcommand.

    Returns:
        The exit code: 0, 1 for a name that is no model, or 2 for arguments that it does not take.
    """
    args = [arg for arg in args if arg != "--debug"]
    if args in (["-h"], ["--help"]):
        sys.stdout.write(
            "usage: deepsynth models [NAME]\n\nList the models, or what is known of one.\n\n"
            "  NAME  a family of the list, a model's folder or a Hub repository\n\n" + examples("models")
        )
        return 0
    if len(args) > 1 or (args and args[0].startswith("-")):
        sys.stderr.write(f"deepsynth: deepsynth models takes one name at most; found {' '.join(args)}\n")
        return 2
    try:
        lines = details(args[0]) if args else table()
    except UserError as error:
        sys.stderr.write(f"deepsynth: {shortened(visible(str(error)), 600)}\n")
        return 1
    sys.stdout.write("\n".join(map(visible, lines)) + "\n")
    return 0


def table() -> list[str]:
    """Return the published models of all families, and what of the engine works for each family."""
    from deepsynth.models.registry import BUILTIN, FAMILIES

    rows = [("family", "weights", "size", "license", "tokens of an A4 page at 150 dpi")]
    for family in FAMILIES.values():
        tokens = ", ".join(f"{mode} {layout.tokens(*_A4_PX)}" for mode, layout in family.modes.items())
        for number, model in enumerate(family.published):
            shown = (tokens or family.page_tokens) if number == 0 else ""
            rows.append((family.name, model.repository, model.parameters, model.license, shown))
    lines = _aligned(rows)
    lines += ["", "works for", *_aligned([(name, _works(family.unsupported)) for name, family in FAMILIES.items()])]
    return [
        *lines,
        "",
        "generic: any other image-text-to-text model of transformers with a chat template",
        *textwrap.wrap(f"in this package: {', '.join(BUILTIN)}", 120, subsequent_indent="  ", break_on_hyphens=False),
        "why something does not work for a family: deepsynth models NAME",
    ]


def details(name: str) -> list[str]:
    """Return what is known of a family or of a model.

    Args:
        name: of a family; or of a model, whose configuration and processor are read.

    Raises:
        UserError: for a name that is neither.
    """
    from deepsynth.data.processing.processor import OcrProcessor
    from deepsynth.models.registry import BUILTIN, FAMILIES, family_of_model

    if name not in FAMILIES and "/" not in name and not Path(name).is_dir():
        raise UserError(
            f"NAME is {name!r}; it must be a family ({', '.join(FAMILIES)}), a model's folder, a Hub repository "
            f"(owner/name) or one of {', '.join(BUILTIN)}"
        )
    family = FAMILIES.get(name) or family_of_model(name)
    rows = [("family", f"{family.name} ({family.title})")]
    rows += [("weights", f"{one.repository}, {one.parameters}, {one.license}") for one in family.published]
    model = next((own for own in BUILTIN if "full-size" in own and family_of_model(own) is family), None)
    if name not in FAMILIES:
        rows.append(("tokens", f"{OcrProcessor(name).layout.tokens(*_A4_PX)} of an A4 page at 150 dpi, as it is set"))
        model = name
    rows.append(("LoRA", _adapters(family, model)))
    modes = _modes(family, None if name in FAMILIES else name)
    without = "none but its own" if family.modes else f"none; tokens of a page: {family.page_tokens}"
    rows.append(("modes", f"{', '.join(modes)} tokens" if modes else without))
    rows.append(("prompts", "by its chat template" if family.inputs == "chat" else "square views, then the prompt"))
    rows += [(f"  {kind}", repr(prompt)) for kind, prompt in family.prompts.items()]
    others = [kind for kind in family.own_prompts if kind not in family.prompts and _is_learned(family, kind)]
    rows += [(f"  {kind}", f"{family.prompt(kind)!r} (not published)") for kind in others]
    rows.append(("tables", f"{family.tables.upper()}, of data.target=table; HTML in Markdown"))
    rows.append(("works", _works(family.unsupported)))
    if family.unsupported:
        rows.append(("without", family.without()))
    return _aligned(rows)


def _adapters(family: Family, name: str | None) -> str:
    """Return the parts of a model that adapters can be on, with their parameters where its configuration is known."""
    if name is None:
        parts = [*family.lora, *(["experts=routed"] if family.supports("experts") else []), "vision"]
        return ", ".join([*parts, "projector"] if family.projector else parts)
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from deepsynth.models.lora import scope_parameters
    from deepsynth.models.registry import load_pretrained

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, name))
    counts = ", ".join(f"{scope} {count:,}" for scope, count in scope_parameters(model, _RANK).items())
    return f"{counts} parameters at rank {_RANK}"


def _modes(family: Family, name: str | None) -> list[str]:
    """Return the modes of a family with the tokens of a page; of a model by name, those that it can serve."""
    from deepsynth.data.processing.processor import OcrProcessor

    found = []
    for mode, published in family.modes.items():
        try:
            layout = published if name is None else OcrProcessor(name, mode).layout
            if name is not None:
                layout.check(mode)
        except UserError:  # the model has no queries for it
            continue
        found.append(f"{mode} {layout.tokens(*_A4_PX)}")
    return found


def _is_learned(family: Family, kind: str) -> bool:
    """Return whether a kind has no boxes, or the family has tokens for these."""
    from deepsynth.models.prompts import BOX_TOKENS, BOXED

    return kind not in BOXED or set(BOX_TOKENS) <= set(family.markup)


def _works(unsupported: Container[str]) -> str:
    """Return what of the engine works, in words."""
    from deepsynth.models.family import FEATURES

    missing = [label for feature, label in FEATURES.items() if feature in unsupported]
    if len(missing) <= len(FEATURES) // 2:
        return f"all but {', '.join(missing)}" if missing else "all"
    return ", ".join(label for feature, label in FEATURES.items() if feature not in unsupported) or "nothing"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines, their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
