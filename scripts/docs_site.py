"""MkDocs hooks: the navigation, the reference pages that are made from signatures, and links out of docs."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: Sections in their order; a page that is in none of the lists follows the listed ones of its folder.
SECTIONS: dict[str, tuple[str, list[str]]] = {
    "Guides": (
        "guides",
        [
            *(
                "your-own-scans",
                "pdfs",
                "new-language",
                "targets",
                "chat-data",
                "sources",
                "text",
                "augmentation",
                "models",
            ),
            *("out-of-memory", "faster", "several-gpus", "evaluate", "published-benchmarks", "serve", "hub", "logging"),
            *("extend", "benchmark", "troubleshooting"),
        ],
    ),
    "Tutorials": ("tutorials", ["quickstart", "own-scans", "new-script"]),
    "How it works": ("how-it-works", ["architecture", "rendering", "training", "decoding", "exactness", "security"]),
    "Reference": ("reference", ["commands", "options", "log-keys", "files", "python", "glossary"]),
    "Results": ("results", ["README"]),
}


def on_config(config: Any) -> Any:
    """Set the navigation from the files that are there."""
    config.nav = [{"Home": "index.md"}, {"Getting started": "getting-started.md"}]
    for title, (folder, order) in SECTIONS.items():
        names = {path.stem for path in (DOCS / folder).glob("*.md")} | set(generated_pages(folder))
        listed = [name for name in order if name in names]
        pages = [f"{folder}/{name}.md" for name in [*listed, *sorted(names - set(listed))]]
        config.nav.append({title: pages})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from signatures and from the tutorials."""
    for folder, _ in SECTIONS.values():
        for name, make in generated_pages(folder).items():
            files.append(File.generated(config, f"{folder}/{name}.md", content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Show a link to a file outside docs as the file's name: the site holds no source code."""
    place = (DOCS / page.file.src_uri).parent

    def plain(found: re.Match[str]) -> str:
        text, target = found[1], found[2].partition("#")[0]
        path = Path(os.path.normpath(place / target))
        if re.match(r"[a-z]+:", target) or not target or path.is_relative_to(DOCS) or not path.exists():
            return found[0]
        return f"{text} (`{path.relative_to(ROOT).as_posix()}`)"

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", plain, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Keep the dashes of an option with its first word, where browsers break lines, and the pipes of tables plain."""

    def mended(code: re.Match[str]) -> str:
        plain = code[0] if "\n" in code[0] else code[0].replace("\\|", "|")
        return re.sub(r"(?<![\w!-])--\w+", r'<span class="option">\g<0></span>', plain)

    return re.sub(r"<code>.*?</code>", mended, html, flags=re.DOTALL)


def generated_pages(folder: str) -> dict[str, Any]:
    """Return the pages of a folder that are made here: a function that returns Markdown, by name."""
    if folder == "reference":
        return {"commands": commands_page, "options": options_page}
    if folder == "tutorials":
        return {path.stem.replace("_", "-"): (lambda path=path: tutorial_page(path)) for path in tutorials()}
    return {}


def tutorials() -> list[Path]:
    """Return the tutorials: Python files with cells, in the format of jupytext."""
    return sorted((DOCS / "tutorials").glob("*.py"))


# ---------------------------------------------------------------------- commands and options


def commands_page() -> str:
    """Return the page of all commands, from their own help."""
    from deepsynth.cli.help.subcommands import EXAMPLES, RUN_COMMANDS, SUBCOMMANDS

    lines = [
        "# Commands\n",
        "Every command has `--help`. This page is made from it. Those that take the options of a run share",
        "[all options](options.md); the others list theirs here.\n",
        "| exit code | meaning |\n|---|---|",
        "| 0 | done |\n| 1 | the run failed on what it was given; one line says what |",
        "| 2 | arguments or a configuration that cannot be used |",
        "| 143 | asked to end by SIGTERM or Ctrl-C, and the checkpoint is saved |\n",
    ]
    for command, examples in EXAMPLES.items():
        what = RUN_COMMANDS.get(command) or SUBCOMMANDS.get(command) or ""
        lines += [f"## {command}\n", f"{what[:1].upper()}{what[1:]}.\n" if what else ""]
        lines += ["```bash", *examples, "```\n"]
        if command not in RUN_COMMANDS and command not in ("quickstart", "configs"):
            lines += ["```text", help_text(command), "```\n"]
    return "\n".join(lines)


def help_text(command: str) -> str:
    """Return the help of a command as it prints it, without its examples."""
    from deepsynth.__main__ import main

    os.environ["COLUMNS"] = "76"
    with contextlib.redirect_stdout(io.StringIO()) as text:
        main([*command.split(), "--help"])
    shown = text.getvalue().replace(" \b", "")  # jsonargparse takes a blank back on a terminal
    return re.split(r"\nexamples?:\n", shown)[0].rstrip()


def options_page() -> str:
    """Return the page of all options of a run."""
    from deepsynth.cli.help import options, page

    lines = [
        "# Options\n",
        "All options of `fit`, `validate`, `test`, `predict`, `render`, `data` and `hub push-data`, made from",
        "signatures and docstrings. On the command line write `--model.lora.rank=32`; in a configuration:\n",
        "```yaml\nmodel:\n  class_path: PeftModule\n  init_args:\n    lora: {rank: 32}\n```\n",
        "`deepsynth fit --help WORD` shows the options with a word in the terminal.\n",
        *_section("Every run", page.COMMON_OPTIONS),
        *_section("Model", options.module_options()),
        *_section("Optimizer", options.optimizer_options()),
        *_section("Data", options.data_options()),
    ]
    titles = {"data.source": "Sources", "data.renderer": "Rendering", "data.augmenter": "Augmentation"}
    titles |= {"data.processor": "Processing", "trainer.callbacks": "Callbacks"}
    for key, title in titles.items():
        lines.append(f"## {title}\n")
        for name, (place, owner, found) in options.class_options().items():
            if place == key:
                sign = "+=" if key == "trainer.callbacks" else "="
                lines += [f"### {name}\n", f"{options.first_line(owner)} `--{key}{sign}{name}`\n"]
                lines += [line for option in found for line in _option(option)]
    lines += _section("Lightning's Trainer", options.trainer_options())
    return "\n".join(lines)


def _section(title: str, options: Any) -> list[str]:
    return [f"## {title}\n", *(line for option in options for line in _option(option))]


def _option(option: Any) -> list[str]:
    value = f"={option.kind}" if option.kind else ""
    default = f" (default `{option.default}`)" if option.default else ""
    text = option.text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return [f"`--{option.key}{value}`{default}", f":   {text or 'as its name says'}\n"]


# ---------------------------------------------------------------------- tutorials


def tutorial_page(path: Path) -> str:
    """Return a tutorial as Markdown: its ``# %% [markdown]`` cells as text, the others as code."""
    cells = re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    parts = []
    for cell in cells:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append("\n".join(re.sub(r"^# ?", "", line) for line in body.strip().splitlines()))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    note = (
        f"\n!!! note\n    This page is `docs/tutorials/{path.name}`; a test runs it, and `make tutorials` runs all of "
        "them whole. Jupyter opens it (jupytext).\n"
    )
    first, *rest = parts
    return "\n\n".join([first, note, *rest]) + "\n"
