"""The documentation: links, anchors, options, configurations and code blocks are right, and sentences are short."""

from __future__ import annotations

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from deepsynth.cli.config_files import find_shipped
from deepsynth.cli.help.options import all_options, class_names
from deepsynth.cli.help.page import OWN_OPTIONS
from deepsynth.cli.help.spellings import ALIASES
from deepsynth.cli.help.subcommands import EXAMPLES, RUN_COMMANDS, command_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIRST_PAGES = [ROOT / "README.md", DOCS / "getting-started.md"]
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
#: Pages of the past: they name what was.
OLD = {"reference/renames.md", "reference/private-parts.md"}
#: Pages that the site makes from signatures and tutorials.
MADE = {"reference/commands.md", "reference/options.md"} | {
    f"tutorials/{path.stem.replace('_', '-')}.md" for path in (DOCS / "tutorials").glob("*.py")
}
CODE = re.compile(r"`[^`\n]+`")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_current(path: Path) -> bool:
    relative = path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name
    return relative not in OLD and not relative.startswith("results/")


CURRENT = [path for path in PAGES if is_current(path)]


def blocks(path: Path, *languages: str) -> list[str]:
    return [body for _, language, body in FENCE.findall(path.read_text()) if language in languages]


def commands(path: Path) -> list[list[str]]:
    """Return the ``deepsynth`` commands of a page's shell blocks, without comments."""
    lines = [line for body in blocks(path, "bash") for line in body.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("deepsynth ")]


def test_the_site_loads_no_script_from_elsewhere() -> None:
    """Material's plugin fetches what search needs in a folder from the network, unless the site has it."""
    (script,) = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["extra"]["polyfills"]
    assert "iframe-worker" in script  # the word that the plugin looks for
    assert (DOCS / script).is_file()


@cache
def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_its_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", FENCE.sub("", path.read_text()))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if found.is_relative_to(DOCS) and found.relative_to(DOCS).as_posix() in MADE:
            continue
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("path", CURRENT, ids=name)
def test_its_commands_name_options_and_configurations_that_exist(path: Path) -> None:
    written = set(re.findall(r"(?:# |`)([\w/-]+\.yaml)", path.read_text()))
    for args in commands(path):
        command = command_of(args)
        assert command in EXAMPLES, args
        if command not in RUN_COMMANDS:
            continue
        own = {option.key for option in OWN_OPTIONS.get(command, ())} | {"print_config", "help"}
        for position, arg in enumerate(args):
            key, _, value = arg.removeprefix("--").partition("=")
            if not arg.startswith("--"):
                continue
            key = key.rstrip("+").replace(".init_args.", ".")
            assert key in own | set(all_options()) | {"model", "data"} or key.startswith("trainer.logger."), (args, arg)
            config = value or args[position + 1] if key == "config" else ""
            users = config in written or config.startswith(("runs/", "my", "over"))
            assert not config or users or find_shipped(config), (args, config)


@pytest.mark.parametrize("path", CURRENT, ids=name)
def test_the_options_in_its_text_exist(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    known = set(all_options())
    groups = {key.rpartition(".")[0] for key in known}
    for key in re.findall(r"`(?:--)?((?:model|data)\.[\w.]+)[`=:]", text):
        key = key.replace(".init_args", "").rstrip(".")
        is_file = key.endswith((".py", ".md", ".yaml"))
        wrong_on_purpose = key.rpartition(".")[2] in ALIASES and key not in known and "did you mean" in text
        assert key in known | groups or is_file or wrong_on_purpose, key


@pytest.mark.parametrize("path", CURRENT, ids=name)
def test_its_blocks_are_what_they_say(path: Path) -> None:
    for body in blocks(path, "python"):
        compile(body, str(path), "exec")
    for body in blocks(path, "json"):
        json.loads(body)
    for body in blocks(path, "yaml"):
        for class_path in re.findall(r"class_path: (\w+)[\s,}]", f"{body}\n"):
            assert class_path in {*class_names(), "EarlyStopping", "ModelCheckpoint"}, class_path
        assert yaml.safe_load(body)


@pytest.mark.parametrize("path", FIRST_PAGES, ids=name)
def test_its_sentences_are_short(path: Path) -> None:
    text = FENCE.sub("\n\n", path.read_text())
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for part in re.split(r"\n\s*\n|\n(?=[-#|])", text):
        if part.lstrip().startswith("|") or part.lstrip().startswith("- Guides"):
            continue
        for sentence in re.split(r"(?<=[.!?:;])\s", part):
            assert len(sentence.split()) <= 30, sentence


def test_the_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_guide_begins_with_something_to_do() -> None:
    for path in (DOCS / "guides").glob("*.md"):
        assert re.search(r"^( {4}|```)", path.read_text(), re.MULTILINE), path


def test_every_page_of_the_navigation_has_one_title() -> None:
    for path in DOCS.rglob("*.md"):
        assert len(re.findall(r"^# ", FENCE.sub("", path.read_text()), re.MULTILINE)) == 1, path


def test_no_number_in_a_sentence_begins_a_list() -> None:
    """Markdown takes a line that begins with ``143. `` for an item."""
    for path in DOCS.rglob("*.md"):
        assert not re.search(r"^ *\d{2,}\. ", FENCE.sub("", path.read_text()), re.MULTILINE), path


def test_the_messages_of_the_troubleshooting_page_are_in_the_program() -> None:
    texts = []
    for path in (ROOT / "src/deepsynth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts.append(
                "…".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
            )
    program = "\n".join(texts)
    messages = re.findall(r"^\| `([^`]+)` \|", (DOCS / "guides/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for part in re.split(r"…|'[^']*'|\b[NM]\b|--\S+|\bWandbLogger\b|\bwandb\b|deepsynth/tiny-random", message):
            assert part.strip(" ;?") in program, message
