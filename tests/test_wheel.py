"""What a user of the built package has: the installed command, in an empty folder, without the repository."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.first_hour import FIRST_PAGES, commands, prepare, shortened

ROOT = Path(__file__).parents[1]
#: pip builds in an environment of its own, for which it fetches the build backend; the rest takes half a minute.
pytestmark = pytest.mark.slow

SOURCE = '''
from collections.abc import Iterator
from dataclasses import dataclass

from deepsynth.data import Source
from deepsynth.types import Document


@dataclass
class MySource(Source):
    """Two documents."""

    def __iter__(self) -> Iterator[Document]:
        yield Document("a", "One text.")
        yield Document("b", "Another text.")
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; dependencies are those of this one, without its editable install."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name == "posix")
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    # Python reads no .pth files in a folder that a .pth file adds, so the editable install stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)})) / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True)
    where = run(folder, tmp_path_factory.mktemp("empty"), "python", "-c", "import deepsynth; print(deepsynth.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    return folder


def run(environment: Path, folder: Path, program: str, *args: str) -> str:
    """Run a program of an environment in a folder and return what it printed."""
    command = [str(environment / Path(sysconfig.get_path("scripts")).name / program), *args]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_a_user_needs(wheel: Path) -> None:
    assert wheel.name.startswith("deepsynth_ocr-")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (ROOT / "src/deepsynth").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT / "src").as_posix() for path in files} <= names
    shipped = {name for name in names if name.startswith("deepsynth/configs/")}
    configs = {path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".jsonl")}
    assert shipped == {f"deepsynth/{path.relative_to(ROOT).as_posix()}" for path in configs}


def test_the_quickstart_runs_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    run(environment, tmp_path, "deepsynth", "fit", "--config", "quickstart", "--trainer.max_steps=2")
    assert (tmp_path / "runs/quickstart/adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "runs/quickstart/checkpoints/last.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.name)
def test_every_command_of_the_first_pages_works_as_printed(environment: Path, tmp_path: Path, page: Path) -> None:
    prepare(tmp_path)
    for line in commands(page):
        program, *args = shlex.split(line)
        run(environment, tmp_path, program, *args, *shortened(line))
    assert (tmp_path / "results/a.txt").is_file()
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    assert (tmp_path / "runs/quickstart/unseen/light-after/predictions.jsonl").is_file()


def test_the_list_is_that_of_the_package(environment: Path, tmp_path: Path) -> None:
    assert f"The files are in {environment}" in run(environment, tmp_path, "deepsynth", "configs")


def test_a_source_beside_the_run_is_found(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "my_sources.py").write_text(SOURCE)
    args = ["--config", "quickstart", "--data.source=my_sources.MySource", "--num", "2", "--output", "pages"]
    assert "2 pages" in run(environment, tmp_path, "deepsynth", "render", *args)
