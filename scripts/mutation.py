"""Put single-line bugs into a module, one at a time, and list those that its tests do not notice.

    python scripts/mutation.py data/text/linebreak             one module
    python scripts/mutation.py hub --sample 20 --seed 1        20 places out of all files of a folder
    python scripts/mutation.py io --bodies                     public functions that return an argument, or nothing

cosmic-ray makes the mutations. They are made in a copy of the tree in a temporary folder, so the working tree stays as
it is when the run is interrupted. A place is sampled once, with one of its mutations; the seed decides which. The tests
of ``src/deepsynth/a/b.py`` are ``tests/a/test_b.py`` and those in ``tests/a`` that import it; for a module that none
imports, those of the modules that import it. What these let pass, the other tests in ``tests/a`` may notice.

Tests run in forks of this process, which has imported the large libraries: that saves most of the time. Those that
fail there without a mutation, because they ask what is imported, run in processes of their own.
"""

import argparse
import ast
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from pathlib import Path

import cosmic_ray.plugins
import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/deepsynth")
PYTEST = ("-x", "-n", "0", "-p", "no:cacheprovider")
#: What the tests print, in the folder of the copy.
OUTPUT = "mutation-output.txt"
#: What most tests import, and takes the longest.
LIBRARIES = ("torch", "lightning.pytorch", "transformers", "peft", "datasets", "PIL.ImageFont", "cv2", "hypothesis")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutations, print each and the score; return 1 if any was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", help="file or folder below src/deepsynth, without .py: data/text/linebreak, hub")
    parser.add_argument("--sample", type=int, default=20, help="number of places to mutate")
    parser.add_argument("--seed", type=int, default=0, help="decides which places, and which mutation of each")
    parser.add_argument("--bodies", action="store_true", help="replace the bodies of public functions instead")
    options = parser.parse_args(arguments)
    module = options.module.removeprefix(f"{PACKAGE}/").removesuffix(".py")
    files = [ROOT / PACKAGE / f"{module}.py"]
    if not files[0].is_file():
        files = sorted((ROOT / PACKAGE / module).rglob("*.py"))
    if not files:
        parser.error(f"{module}: no such file or folder below {PACKAGE}")
    with tempfile.TemporaryDirectory(prefix="deepsynth-mutation-") as folder:
        copy_tree(Path(folder))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": f"{folder}/src", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True
        sys.path[:0] = [f"{folder}/src", folder]  # before an editable install
        for library in LIBRARIES:
            importlib.import_module(library)
        draw = sample_bodies if options.bodies else sample
        survivors = run(draw([file.relative_to(ROOT) for file in files], options.sample, options.seed))
    return 1 if survivors else 0


def copy_tree(target: Path) -> None:
    """Copy all files that git tracks or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass(frozen=True)
class Bug:
    """A change of a file that its tests should notice: the line, and what the file then holds."""

    path: Path
    line: int
    content: str


def sample(files: Iterable[Path], count: int, seed: int) -> list[Bug]:
    """Return one mutation for each of ``count`` places, or of all if there are fewer, in the order of drawing."""
    database = WorkDB(":memory:", WorkDB.Mode.create)
    init(files, database, {})
    places: dict[tuple[str, tuple[int, int]], list[MutationSpec]] = {}
    annotated = {file: annotations(file) for file in files}
    for item in database.work_items:
        (mutation,) = item.mutations
        if not any(start <= mutation.start_pos < end for start, end in annotated[mutation.module_path]):
            places.setdefault((str(mutation.module_path), mutation.start_pos), []).append(mutation)
    generator = random.Random(seed)
    found: list[Bug] = []
    for place in generator.sample(sorted(places), len(places)):
        mutations = sorted(places[place], key=lambda one: (one.operator_name, one.occurrence))
        found += islice(filter(None, map(bug_of, generator.sample(mutations, len(mutations)))), 1)
        if len(found) == count:
            break
    return sorted(found, key=lambda bug: (bug.path, bug.line))


def bug_of(mutation: MutationSpec) -> Bug | None:
    """Return what a mutation of cosmic-ray makes of its file; ``None`` for what it or Python itself refuses."""
    operator = cosmic_ray.plugins.get_operator(mutation.operator_name)(**mutation.operator_args)
    source = (ROOT / mutation.module_path).read_text(encoding="utf-8")
    try:
        content = mutate_code(source, operator, mutation.occurrence)
        assert content is not None, mutation
        ast.parse(content)
    except (SyntaxError, AttributeError):  # of cosmic-ray: an exception whose name has a dot
        return None
    return Bug(mutation.module_path, mutation.start_pos[0], content)


def sample_bodies(files: Iterable[Path], count: int, seed: int) -> list[Bug]:
    """Return bugs that make a public function return an argument that has the type of its result, or nothing."""
    found = [bug for file in files for bug in emptied(file)]
    chosen = random.Random(seed).sample(found, min(count, len(found)))
    return sorted(chosen, key=lambda bug: (bug.path, bug.line))


def emptied(file: Path) -> Iterator[Bug]:
    """Yield a bug for each public function and method of a file that is more than one expression."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines(keepends=True)
    for node in ast.walk(ast.parse("".join(lines))):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        decorators = {ast.unparse(one) for one in node.decorator_list}
        if not body or isinstance(body[0], ast.Raise) or decorators & {"overload", "abstractmethod"}:
            continue
        values = {"str": "''", "int": "0", "float": "0.0", "bool": "False", "list": "[]", "dict": "{}", "tuple": "()"}
        returned = ast.unparse(node.returns) if node.returns else ""
        alike = [a.arg for a in node.args.args if a.annotation and ast.unparse(a.annotation) == returned]
        value = alike[0] if alike else values.get(returned.partition("[")[0], "None")
        yields = any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node))
        indent = " " * body[0].col_offset
        new = f"{indent}yield from ()\n" if yields else f"{indent}return {value}\n"
        assert node.end_lineno is not None
        content = [*lines[: body[0].lineno - 1], new, *lines[node.end_lineno :]]
        yield Bug(file, node.lineno, "".join(content))


def annotations(file: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where type annotations start and end: a mutated ``int | None`` is no bug that a test could notice."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr) and part.end_lineno is not None and part.end_col_offset is not None:
                found.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return found


def tests_of(file: Path) -> list[str]:
    """Return the test files of a module, or those of the modules that import it, or the folder that mirrors its own.

    The file that mirrors the module comes first: it is the fastest to notice.
    """
    module = file.relative_to(PACKAGE).with_suffix("")
    area = Path("tests") / module.parts[0]
    own = Path("tests") / module.parent / f"test_{module.name}.py"
    seen, modules = {file}, [file]
    while modules:
        named = {test for one in modules for test in area.rglob("test_*.py") if imports(test, one)}
        mirror = [str(own)] if own.is_file() else []
        if found := mirror + sorted(map(str, named - {own})):
            return found
        modules = [f for f in PACKAGE.rglob("*.py") if f not in seen and any(imports(f, one) for one in modules)]
        seen.update(modules)
    return [str(area)]


def imports(importer: Path, module: Path) -> bool:
    """Return whether a file imports a module by its full name."""
    parent, name = ".".join(module.parent.parts[1:]), module.stem
    pattern = rf"{re.escape(parent)}\.{name}\b|from {re.escape(parent)} import [^\n]*\b{name}\b"
    return re.search(pattern, importer.read_text(encoding="utf-8")) is not None


def run(bugs: Sequence[Bug]) -> int:
    """Try every bug, print what became of it, and return how many were not noticed."""
    suites: dict[tuple[str, ...], Suite] = {}
    survived = 0
    for number, bug in enumerate(bugs, 1):
        own = tests_of(bug.path)
        mirror = (Path("tests") / bug.path.relative_to(PACKAGE)).parent
        wider = sorted({str(test) for test in mirror.glob("test_*.py")}.difference(own))
        before, noticed = bug.path.read_text(encoding="utf-8"), False
        for tests in filter(None, (tuple(own), tuple(wider))):  # the wider ones take longer and run for few
            suite = suites.get(tests) or suites.setdefault(tests, Suite(tests))
            try:
                bug.path.write_text(bug.content, encoding="utf-8")
                noticed = not suite.passes()
            finally:
                bug.path.write_text(before, encoding="utf-8")
            if noticed:
                break
        survived += not noticed
        print(f"{number}/{len(bugs)} {'noticed ' if noticed else 'SURVIVED'} {bug.path}:{bug.line}")
        changed = list(unified_diff(before.splitlines(), bug.content.splitlines(), lineterm="", n=0))[2:]
        lines = [line for line in changed if not line.startswith("@@")]
        print("".join(f"    {line}\n" for line in [*islice(lines, 3), *lines[3:][-3:]]), end="", flush=True)
    total = len(bugs)
    print(f"{total - survived} of {total} noticed ({100 * (total - survived) / max(total, 1):.0f} %)")
    return survived


class Suite:
    """Test files that pass without a mutation, and how they are run.

    Args:
        tests: files or folders.
    """

    def __init__(self, tests: Sequence[str]) -> None:
        self.tests = tests
        self.limit_s: float | None = None
        start = time.monotonic()
        self.forks = True
        if not self.passes():
            self.forks, start = False, time.monotonic()
            if not self.passes():
                raise SystemExit(f"{' '.join(tests)} fails without a mutation:\n{Path(OUTPUT).read_text()[-3000:]}")
        self.limit_s = 60 + 5 * (time.monotonic() - start)

    def passes(self) -> bool:
        """Run the tests and return whether they all pass before the limit of time."""
        with Path(OUTPUT).open("w") as output:
            command = [sys.executable, "-m", "pytest", *PYTEST, *self.tests]
            if not self.forks:
                process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
                return self._ended(process.pid)
            child = os.fork()
            if child:
                return self._ended(child)
            code = 1
            try:
                os.setsid()
                os.dup2(output.fileno(), sys.stdout.fileno())
                os.dup2(output.fileno(), sys.stderr.fileno())
                sys.argv = command[2:]
                code = pytest.main([*PYTEST, *self.tests])
            finally:
                os._exit(code)

    def _ended(self, pid: int) -> bool:
        start = time.monotonic()
        while self.limit_s is None or time.monotonic() - start < self.limit_s:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return False


if __name__ == "__main__":
    sys.exit(main())
