"""The structure of the package: layers, import circles, sizes, and the libraries that stay out of the fast path."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "deepsynth"
FILES = sorted(PACKAGE.rglob("*.py"))

#: From the bottom to the top. A part imports its own files and lower layers; the parts of the bottom layer may also
#: import one another.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors", "_version", "lazy_imports", "unsloth_import", "io", "compat"}),
    frozenset({"metrics", "profiling", "distributed"}),
    frozenset({"models"}),
    frozenset({"data", "generation", "hub"}),
    frozenset({"modules"}),
    frozenset({"callbacks", "export", "inference", "measurement", "serving"}),
    frozenset({"cli"}),
    frozenset({"__main__", "__init__"}),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

#: Files that hold one model's definition or data in tables, and may be longer.
LONG_FILES = {"models/deepseek_ocr/modeling.py"}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Return all nodes of a file, the file itself first."""
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def _forget_files() -> Iterator[None]:
    yield
    nodes.cache_clear()  # a few million objects


@cache
def imports(path: Path, *, top_level: bool = False) -> frozenset[str]:
    """Return the modules that a file imports, type-checking ones included; with ``top_level`` those of its import."""
    left_out: set[int] = set()
    if top_level:
        for node in nodes(path):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                left_out |= {id(inner) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in nodes(path):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return frozenset(found)


def own_imports(path: Path) -> set[Path]:
    return {MODULES[name] for name in imports(path) if name in MODULES} - {path}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_its_own_part_and_lower_layers(path: Path) -> None:
    own = part(path)
    assert own in LEVEL, f"{own} is in no layer: add it to LAYERS"
    if path == PACKAGE / "__init__.py":
        return  # the package's face hands on names of the layers above
    for other in own_imports(path):
        lower = LEVEL[part(other)] < LEVEL[own] or LEVEL[own] == LEVEL[part(other)] == 0
        assert part(other) == own or lower, f"{own} imports {other.relative_to(SRC)}"


def test_data_and_modules_never_import_each_other() -> None:
    for path in FILES:
        pair = {part(path)} | {part(other) for other in own_imports(path)}
        assert part(path) not in ("data", "modules") or not {"data", "modules"} <= pair, path


def test_there_are_no_import_circles() -> None:
    faces = {path for path in FILES if path.name == "__init__.py"}
    graph = {path: own_imports(path) - faces for path in FILES if path not in faces}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import circle: " + " -> ".join(str(path.relative_to(SRC)) for path in error.args[1]))


def test_nothing_inside_a_part_imports_its_own_face() -> None:
    """The names of a package's ``__init__`` are for others; inside, the file that has the name is imported."""
    for path in FILES:
        for other in own_imports(path):
            inside = path.name != "__init__.py" and other.name == "__init__.py" and other.parent in path.parents
            assert not inside or other == PACKAGE / "__init__.py", f"{path.relative_to(SRC)}: {other.relative_to(SRC)}"


#: Functions with more parameters than eight: signatures of transformers that are overridden, and Triton's kernels.
MANY_PARAMETERS = {
    "models/deepseek_ocr/image_processing.py:_preprocess",
    "models/deepseek_ocr/modeling.py:forward",
    "models/kernels/adapters_triton.py:add_product",
    "models/kernels/experts_triton.py:route",
    "models/kernels/sam_triton.py:attend",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_short(path: Path) -> None:
    """At most 60 lines without the docstring; at most 8 parameters, but for constructors of what users configure."""
    for function in nodes(path):
        if not isinstance(function, ast.FunctionDef):
            continue
        name = f"{path.relative_to(PACKAGE)}:{function.name}"
        body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
        assert (body[-1].end_lineno or 0) - body[0].lineno < 60, name
        arguments = function.args
        own = [
            a for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if a.arg not in ("self", "cls")
        ]
        assert len(own) <= 8 or function.name == "__init__" or name in MANY_PARAMETERS, name


def test_sizes() -> None:
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= 300 or str(path.relative_to(PACKAGE)) in LONG_FILES, f"{path.relative_to(SRC)}: {lines} lines"
    for folder in {path.parent for path in FILES}:
        own = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(own) <= (7 if folder == PACKAGE else 14), f"{folder.relative_to(SRC)}: {len(own)} files"


@pytest.mark.parametrize(
    ("libraries", "parts"),
    [
        ({"lightning", "torch", "yaml"}, {"hub", "__main__", "unsloth_import"}),
        (
            {"peft", "unsloth", "bitsandbytes", "datasets"},
            {"data", "modules", "models", "hub", "callbacks", "__main__", "cli"},
        ),
        ({"transformers"}, {"data", "hub", "__main__", "callbacks"}),
        ({"huggingface_hub"}, {"data", "modules", "models", "callbacks", "__main__", "cli"}),
        ({"torch", "transformers", "PIL"}, {"tokens"}),
    ],
)
def test_libraries_are_imported_inside_functions(libraries: set[str], parts: set[str]) -> None:
    for path in FILES:
        if part(path) in parts or path.stem in parts:
            top = {name.split(".")[0] for name in imports(path, top_level=True)}
            assert not top & libraries, f"{path.relative_to(PACKAGE)} imports {top & libraries} at its top"


def test_no_name_says_nothing() -> None:
    empty = {"utils", "helpers", "common", "manager", "v2", "new", "improved", "final"}
    assert not [path for path in FILES if empty & set(path.stem.split("_"))]


DOC = (PACKAGE.parents[1] / "docs/how-it-works/architecture.md").read_text()


def test_the_page_on_architecture_lists_these_layers() -> None:
    rows = re.findall(r"^\| (\d) \| (.*) \|$", DOC, re.MULTILINE)
    listed = [frozenset(re.findall(r"`(\w+)`", parts)) for _, parts in sorted(rows)]
    assert listed == list(LAYERS)


def test_every_path_on_the_page_on_architecture_exists() -> None:
    roots = (PACKAGE, PACKAGE.parents[1])
    paths = [name for name in re.findall(r"`([\w./]+)`", DOC) if "/" in name or name.endswith(".py")]
    assert len(paths) > 40
    assert not [name for name in paths if not any((root / name).exists() for root in roots)]


def test_forward_methods_are_replaced_in_one_place() -> None:
    """By assignment, by ``setattr``, or in a module's ``__dict__``; a reader finds all of it in one file."""

    def replaces(node: ast.AST) -> bool:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            return any(isinstance(argument, ast.Constant) and argument.value == "forward" for argument in node.args)
        if not isinstance(node, ast.Attribute | ast.Subscript) or isinstance(node.ctx, ast.Load):
            return False
        if isinstance(node, ast.Attribute):
            return node.attr == "forward"
        attributes = ast.unparse(node.value)
        named = isinstance(node.slice, ast.Constant) and node.slice.value == "forward"
        return named and (attributes.endswith("__dict__") or attributes.startswith("vars("))

    found = {path for path in FILES if any(replaces(node) for node in nodes(path))}
    assert found == {PACKAGE / "models/engine/fast_paths.py"}


def test_private_names_of_other_objects_are_used_in_compat_alone() -> None:
    """A name that begins with one underscore is read and written by its own class, and in ``compat`` with a reason."""
    public = {"os._exit", "_replace", "_asdict", "_fields"}  # documented as they are

    def is_private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    found = []
    for path in FILES:
        if part(path) == "compat":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", "super()") and not public & {node.attr, f"{owner}.{node.attr}"}:
                    found.append(f"{path.relative_to(SRC)}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("deepsynth"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                found += [f"{path.relative_to(SRC)}:{node.lineno} {name}" for name in names if is_private(name)]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
                names = [str(name.value) for name in node.args if isinstance(name, ast.Constant)]
                found += [f"{path.relative_to(SRC)}:{node.lineno} {name!r}" for name in names if is_private(name)]
    assert found == []


def test_public_dataclasses_are_frozen_but_those_that_are_filled_step_by_step() -> None:
    """What a dataclass has checked stays so, and values can be shared and hashed."""
    filled = {
        "GalleryEntry", "DataReport", "Entries", "Listing", "PageScore", "TableNode",  # while reading
        "LaidOutLine", "LayoutRow", "PositionedLine", "PageLayout",  # while pages are laid out
        "Prompt", "GenerationState",  # while texts are generated
        "Sample", "Batch",  # Lightning replaces fields of batches
        "DeepseekOcrModelOutput", "DeepseekOcrCausalLMOutput",  # Hugging Face's own way
    }  # fmt: skip
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                made = [text for one in node.decorator_list if (text := ast.unparse(one)).startswith("dataclass")]
                assert not made or ("frozen=True" in made[0]) == (node.name not in filled), f"{path}: {node.name}"


#: Files that write one model's form: its published one, and the one of the model that transformers has.
FORMATS_OF_A_MODEL = {"export/published.py", "export/plain_transformers.py"}


def test_no_file_outside_of_models_asks_for_a_family_by_its_name() -> None:
    """What differs between families is an attribute or a method of ``Family``; a new one is a file in ``models``."""
    from deepsynth.models.registry import FAMILIES

    known = {name for family in FAMILIES.values() for name in (*family.model_types, *family.architectures, family.name)}
    classes = re.compile(r"(?i)deepseek|unlimited|paddleocr|glmocr|qwen|gotocr|idefics|lightonocr")

    def asks(node: ast.AST) -> bool:
        if isinstance(node, ast.Compare | ast.MatchValue | ast.Dict | ast.Set | ast.Tuple | ast.List):
            return any(isinstance(one, ast.Constant) and one.value in known for one in ast.walk(node))
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            return bool(classes.search(ast.unparse(node.args[1])))
        return isinstance(node, ast.ImportFrom) and bool(classes.search(node.module or ""))

    found = []
    for path in FILES:
        if part(path) != "models" and str(path.relative_to(PACKAGE)) not in FORMATS_OF_A_MODEL:
            found += [f"{path.relative_to(SRC)}:{node.lineno}" for node in nodes(path) if asks(node)]
    assert found == []


def private_names(path: Path) -> set[str]:
    """Return the names with one underscore that a file defines."""
    found = {node.name for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in nodes(path):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if re.fullmatch(r"_[a-zA-Z]\w*", name)}


def test_tests_go_by_the_public_names_of_the_package() -> None:
    """A test that reads a private name holds a way of writing the code, not a behavior; ``compat`` tests its own."""
    files = [path for path in FILES if part(path) != "compat"]  # whose names are other libraries'
    ours = set().union(*(private_names(path) for path in files))
    ours = {name for name in ours if not name.endswith("_")}  # IPython's protocol, such as _repr_png_
    ours -= {"_attn_implementation", "_experts_implementation"}  # of transformers, which the package writes, too
    tests = Path(__file__).parent
    found = []
    for path in sorted({*tests.rglob("*.py")} - {*(tests / "compat").rglob("*.py"), Path(__file__)}):
        theirs = ours - private_names(path)  # what a test's own classes have
        for node in nodes(path):
            names: list[str] = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepsynth"):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and "setattr" in [getattr(node.func, key, "") for key in ("id", "attr")]:
                texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                names = [name for text in texts if isinstance(text, str) for name in text.split(".")]
            found += [f"{path.relative_to(tests)}:{node.lineno} {name}" for name in {*names} & theirs]
    assert found == []


def test_the_table_of_private_parts_is_complete() -> None:
    table = (PACKAGE.parents[1] / "docs/reference/private-parts.md").read_text()
    listed = set(re.findall(r"^\| (\w+) \| `(\w+)` \|", table, re.MULTILINE))
    found = set()
    for path in (PACKAGE / "compat").glob("*.py"):
        body = ast.parse(path.read_text()).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        found |= {(path.stem, name) for name in names if not name.startswith("_")}
    assert listed == found


def asserts(function: ast.AST) -> bool:
    """Return whether a function asserts something by itself."""
    checks = {"raises", "warns", "fail", "assert_close", "assert_array_equal", "assert_allclose", "assert_frame_equal"}
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Attribute) and node.attr in checks)
        for node in ast.walk(function)
    )


def test_every_default_test_asserts_something() -> None:
    """Itself, or by a function of the tests that it calls."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    functions = [node for path in files for node in nodes(path) if isinstance(node, ast.FunctionDef)]
    helpers = {node.name for node in functions if not node.name.startswith("test_") and asserts(node)}
    found = []
    for path in files:
        for node in nodes(path):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
            left_out = "benchmark" in names or any("mark.slow" in ast.unparse(one) for one in node.decorator_list)
            if not left_out and not asserts(node) and not names & helpers:
                found.append(f"{path.name}:{node.lineno} {node.name}")
    assert found == []
