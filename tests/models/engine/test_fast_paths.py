"""Fast paths are listed, installed and taken away again in one place; their numbers are tested with the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepsynth.compat.transformers import experts_implementation
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.models.engine.fast_paths import (
    FROZEN_EXPERTS,
    ReplacedForwards,
    install_training_paths,
)
from deepsynth.models.engine.path_rows import PathRow, describe
from deepsynth.models.kernels import decoder, frozen_experts, sam_attention
from tests.helpers.generation import load
from tests.helpers.training import make_data, make_module, make_trainer

NAME = "deepsynth/tiny-random"


def forwards_of(model: nn.Module) -> dict[str, Any]:
    """Return the modules that run another forward than their class's."""
    return {name: vars(module)["forward"] for name, module in model.named_modules() if "forward" in vars(module)}


def used(rows: list[PathRow]) -> dict[str, int]:
    return {row.path: row.modules for row in rows if row.modules}


def test_replaced_forwards_are_listed_and_put_back() -> None:
    module = nn.Linear(2, 2)
    outer = ReplacedForwards([(module, lambda x: "outer")])
    inner = ReplacedForwards([(module, lambda x: "inner")])
    x = torch.zeros(1, 2)
    assert outer.replaced() == []
    with outer:
        assert outer.installed
        [(found, before)] = outer.replaced()
        assert found is module
        assert torch.equal(before(x), nn.Linear.forward(module, x))
        with inner:
            assert module(x) == "inner"
            [(_, before)] = inner.replaced()
            assert before(x) == "outer"
        assert module(x) == "outer"
    assert isinstance(module(x), torch.Tensor)
    assert not outer.installed
    assert "forward" not in vars(module)
    outer.undo()  # there is nothing to undo
    with outer, pytest.raises(RuntimeError, match="installed already"):
        outer.install()


def test_what_was_installed_later_is_undone_first() -> None:
    module = nn.Linear(2, 2)
    outer = ReplacedForwards([(module, lambda x: "outer")]).install()
    inner = ReplacedForwards([(module, lambda x: "inner")]).install()
    with pytest.raises(RuntimeError, match="installed later must be undone first"):
        outer.undo()
    inner.undo()
    outer.undo()
    assert "forward" not in vars(module)


def test_forwards_are_put_back_after_an_error() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(KeyError), ReplacedForwards([(module, lambda x: x)]):
        raise KeyError
    assert "forward" not in vars(module)


def test_training_installs_its_paths_once_and_undoes_them() -> None:
    module = make_module(model_name=NAME, experts="all", mlp=True)
    module.configure_model()
    paths = module.training_engine.fast_paths
    assert paths is not None
    assert paths.installed
    base = module.model.get_base_model()
    config = base.config.text_config
    counts = used(paths.rows)
    layers = len(base.model.language_model.layers)
    assert counts[decoder.ADAPTERS] >= 4 * layers
    assert counts[decoder.EXPERT_ADAPTERS] > 0
    assert counts[FROZEN_EXPERTS] > 0
    assert paths.uses(sam_attention.ATTENTION)
    assert {runner.shapes_vary for runner in paths.decoder_layers} == {True}
    assert {runner.shapes_vary for runner in paths.vision_layers} == {False}  # of frozen vision, which sees one shape
    assert experts_implementation(config) == frozen_experts.IN_TRAINING
    assert set(forwards_of(base).values()) == {forward for _, forward in paths.forwards}
    paths.undo()
    assert not forwards_of(base)
    assert experts_implementation(config) != frozen_experts.IN_TRAINING
    with paths:
        assert experts_implementation(config) == frozen_experts.IN_TRAINING
    assert not forwards_of(base)


def test_what_is_installed_is_what_runs_in_training_alone(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways compute the same numbers, so that only a class whose own forward fails shows which one ran."""
    module = make_module(model_name=NAME, experts="all")
    module.configure_model()
    data = make_data(jsonl, model_name=NAME)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    paths = module.training_engine.fast_paths
    assert paths is not None
    kinds = {type(found) for found, _ in paths.forwards if hasattr(found, "lora_A") or hasattr(found, "rel_pos_h")}
    assert len(kinds) == 3  # adapters of linear layers and of experts, SAM's attention

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise ArithmeticError(type(self).__name__)

    for kind in kinds:
        monkeypatch.setattr(kind, "forward", fail)
    assert float(module.train().compute_loss(batch).detach()) > 0
    with pytest.raises(ArithmeticError):
        module.eval().compute_loss(batch)


def test_plain_kernels_leave_the_layers_as_they_are() -> None:
    model = load(NAME)
    paths = install_training_paths(model, kernels="plain")
    assert not used(paths.rows)
    reasons = {row.path: row.reason for row in paths.rows}
    assert {reasons[path] for path in (*decoder.PATHS, *sam_attention.PATHS, FROZEN_EXPERTS)} == {
        "model.engine.kernels is plain"
    }
    assert set(forwards_of(model).values()) == {runner.run for runner in paths.layers}


def test_generation_takes_its_paths_for_a_call_and_leaves_those_of_training() -> None:
    module = make_module(model_name=NAME)
    module.configure_model()
    base = module.model.get_base_model()
    before = forwards_of(base)
    runner = ModelRunner(module.model)
    counts = used(runner.fast_paths.rows)
    assert counts[decoder.ADAPTERS] > 0
    assert counts[decoder.ROUTER] > 0  # which has no path in training
    with runner.at_work():
        during = forwards_of(base)
    assert len(during) > len(before)
    assert forwards_of(base) == before


def test_a_run_says_which_paths_it_takes(tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, max_steps=1).fit(make_module(experts_implementation="eager"), make_data(jsonl))
    [line] = [record.getMessage() for record in caplog.records if "fast paths" in record.getMessage()]
    assert line.startswith("fast paths: adapters (")
    assert "frozen experts (model.engine.experts_implementation is eager)" in line
    assert "SAM patches (the model is on cpu)" in line


def test_the_line_names_paths_with_one_reason_together() -> None:
    rows = [PathRow("a", 2, ""), PathRow("b", 0, "no"), PathRow("c", 0, "never"), PathRow("d", 0, "no")]
    assert describe(rows) == "fast paths: a (2); not used: b, d (no); c (never)"
    assert describe([]) == "fast paths: none"
