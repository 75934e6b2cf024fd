"""Put single-line bugs into a module, one at a time, and list those that its tests do not notice.

    python scripts/mutation.py data/text/linebreak             one module
    python scripts/mutation.py hub --sample 20 --seed 1        20 places out of all files of a folder

cosmic-ray makes the mutations. They are made in a copy of the tree in a temporary folder, so the working tree stays as
it is when the run is interrupted. A place is sampled once, with one of its mutations; the seed decides which. The tests
of ``src/deepsynth/a/b.py`` are ``tests/a/test_b.py`` and those in ``tests/a`` that import it; for a module that none
imports, those of the modules that import it. What these let pass, the other tests in ``tests/a`` may notice.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/deepsynth")
PYTEST = f"{sys.executable} -m pytest -x -n 0 -p no:cacheprovider"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutations, print each and the score; return 1 if any was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", help="file or folder below src/deepsynth, without .py: data/text/linebreak, hub")
    parser.add_argument("--sample", type=int, default=20, help="number of places to mutate")
    parser.add_argument("--seed", type=int, default=0, help="decides which places, and which mutation of each")
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
        survivors = run(sample([file.relative_to(ROOT) for file in files], options.sample, options.seed))
    return 1 if survivors else 0


def copy_tree(target: Path) -> None:
    """Copy all files that git tracks or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def sample(files: Iterable[Path], count: int, seed: int) -> list[MutationSpec]:
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
    chosen = generator.sample(sorted(places), min(count, len(places)))
    order = {place: sorted(places[place], key=lambda one: (one.operator_name, one.occurrence)) for place in chosen}
    return sorted(
        (generator.choice(order[place]) for place in chosen), key=lambda one: (one.module_path, one.start_pos)
    )


def annotations(file: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where type annotations start and end: a mutated ``int | None`` is no bug that a test could notice."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr) and part.end_lineno is not None and part.end_col_offset is not None:
                found.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return found


def tests_of(file: Path) -> list[str]:
    """Return the test files of a module, or those of the modules that import it, or the folder that mirrors its own."""
    module = file.relative_to(PACKAGE).with_suffix("")
    area = Path("tests") / module.parts[0]
    own = Path("tests") / module.parent / f"test_{module.name}.py"
    seen, modules = {file}, [file]
    while modules:
        named = {test for one in modules for test in area.rglob("test_*.py") if imports(test, one)}
        if found := sorted(map(str, named | ({own} if own.is_file() else set()))):
            return found
        modules = [f for f in PACKAGE.rglob("*.py") if f not in seen and any(imports(f, one) for one in modules)]
        seen.update(modules)
    return [str(area)]


def imports(importer: Path, module: Path) -> bool:
    """Return whether a file imports a module by its full name."""
    parent, name = ".".join(module.parent.parts[1:]), module.stem
    pattern = rf"{re.escape(parent)}\.{name}\b|from {re.escape(parent)} import [^\n]*\b{name}\b"
    return re.search(pattern, importer.read_text(encoding="utf-8")) is not None


def run(mutations: Sequence[MutationSpec]) -> int:
    """Try every mutation, print what became of it, and return how many were not noticed."""
    limits: dict[str, float] = {}
    survived = 0
    for number, mutation in enumerate(mutations, 1):
        own = tests_of(mutation.module_path)
        mirror = (Path("tests") / mutation.module_path.relative_to(PACKAGE)).parent
        wider = sorted({str(test) for test in mirror.glob("test_*.py")}.difference(own))
        noticed, diff = False, ""
        for tests in filter(None, (own, wider)):  # the wider ones take longer and run for few
            command = " ".join([PYTEST, *tests])
            if command not in limits:
                start = time.monotonic()
                unchanged = subprocess.run(command.split(), capture_output=True, text=True, check=False)
                if unchanged.returncode:
                    raise SystemExit(f"{command} fails without a mutation:\n{unchanged.stdout[-3000:]}")
                limits[command] = 60 + 5 * (time.monotonic() - start)
            result = mutate_and_test([mutation], command, limits[command])
            if result.test_outcome == TestOutcome.INCOMPETENT:
                raise SystemExit(f"{mutation.module_path}: cosmic-ray failed\n{result.output}")
            noticed, diff = result.test_outcome == TestOutcome.KILLED, result.diff or ""
            if noticed:
                break
        survived += not noticed
        line = mutation.start_pos[0]
        print(f"{number}/{len(mutations)} {'noticed ' if noticed else 'SURVIVED'} {mutation.module_path}:{line}")
        print("".join(f"    {text}\n" for text in changed_lines(diff)), end="", flush=True)
    total = len(mutations)
    print(f"{total - survived} of {total} noticed ({100 * (total - survived) / max(total, 1):.0f} %)")
    return survived


def changed_lines(diff: str) -> list[str]:
    """Return the lines that a mutation removes and adds."""
    return [line for line in diff.splitlines() if re.match(r"[-+](?![-+]{2} )", line) and "mutation diff" not in line]


if __name__ == "__main__":
    sys.exit(main())
