"""One contract for both backends: the same work gives the same numbers, and each takes over from the other.

On the CPU a stand-in (``helpers.unsloth_stand_in``) is behind the real UnslothModule; with ``-m gpu`` it is Unsloth:

    python -m pytest -m gpu tests/modules/test_contract.py -s
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from deepsynth import PeftModule, TextImageDataModule, UnslothModule
from deepsynth.__main__ import main
from deepsynth.data import JsonlSource
from tests.helpers import unsloth_stand_in
from tests.helpers.lora_counts import lora_parameters
from tests.helpers.training import grouped, make_data, make_trainer

BACKENDS = {"peft": PeftModule, "unsloth": UnslothModule}
Make = Callable[..., Any]


@pytest.fixture(
    params=[
        pytest.param("cpu", id="stand-in"),
        pytest.param(
            "gpu",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ]
)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """``cpu`` with a stand-in for Unsloth, ``gpu`` with Unsloth itself."""
    if request.param == "cpu":
        unsloth_stand_in.install(monkeypatch)
    else:
        pytest.importorskip("unsloth", reason="Unsloth is not installed (extra unsloth)")
    return str(request.param)


@pytest.fixture
def make(machine: str) -> Make:
    """Return a function that makes a module by the name of its backend."""

    def build(backend: str, **kwargs: Any) -> Any:
        seed_everything(0)
        settings: dict[str, Any] = {"max_new_tokens": 8, "schedule": "constant", "activation_memory": "none", **kwargs}
        module = BACKENDS[backend](optimizer=lambda params: torch.optim.AdamW(params, lr=2e-3), **grouped(**settings))
        return module.to("cuda") if machine == "gpu" else module

    return build


@pytest.fixture
def trainer(machine: str, tmp_path: Path) -> Callable[..., Trainer]:
    return lambda **kwargs: make_trainer(tmp_path, accelerator=machine, devices=1, **kwargs)


def tolerance(machine: str) -> float:
    """Relative, of a loss: one implementation on the CPU, bfloat16 and other kernels on the GPU."""
    return 1e-5 if machine == "cpu" else 2e-2


def data_of(jsonl: Path) -> TextImageDataModule:
    return make_data(jsonl, val_source=JsonlSource(str(jsonl)))


class Record(Callback):
    """Remembers losses and the order of the samples."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ids: list[str] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.ids += batch.ids


def trainable(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}


def train(module: Any, trainer: Callable[..., Trainer], jsonl: Path, steps: int) -> Record:
    record = Record()
    trainer(max_steps=steps, callbacks=[record], limit_val_batches=0).fit(module, data_of(jsonl))
    return record


SCOPES: list[dict[str, Any]] = [
    {},
    {"mlp": True, "experts": "shared"},
    {"attention": False, "experts": "routed"},
    {"experts": "all", "mlp": True},
]


@pytest.mark.parametrize("scope", SCOPES, ids=lambda s: "+".join(map(str, s.values())) or "attention")
def test_the_same_parameters_train_in_both_and_all_of_them_do(
    make: Make, trainer: Any, jsonl: Path, scope: dict[str, Any]
) -> None:
    modules = {backend: make(backend, **scope) for backend in BACKENDS}
    for module in modules.values():
        module.configure_model()
        before = {name: p.detach().cpu().clone() for name, p in module.named_parameters() if p.requires_grad}
        train(module, trainer, jsonl, steps=2)  # the module itself stops when a B matrix got no gradient
        moved = {
            name for name, p in module.named_parameters() if p.requires_grad and not torch.equal(p.cpu(), before[name])
        }
        assert moved == before.keys()
    assert trainable(modules["peft"]) == trainable(modules["unsloth"])
    counts = lora_parameters(modules["peft"].model.config)
    wanted = [counts["attention"]] if scope.get("attention", True) else []
    wanted += [counts["mlp"]] if scope.get("mlp") else []
    experts = scope.get("experts", "none")
    wanted += [counts[f"experts={kind}"] for kind in ("shared", "routed") if experts in (kind, "all")]
    assert sum(p.numel() for p in modules["peft"].parameters() if p.requires_grad) == sum(wanted)


@pytest.mark.parametrize(
    "scope",
    [pytest.param(SCOPES[0], id="attention", marks=pytest.mark.slow), pytest.param(SCOPES[3], id="all")],
)
@pytest.mark.parametrize("steps", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_order_first_loss_and_curve_are_the_same(
    make: Make, trainer: Any, machine: str, jsonl: Path, scope: dict[str, Any], steps: int
) -> None:
    records = {backend: train(make(backend, **scope), trainer, jsonl, steps) for backend in BACKENDS}
    ours, theirs = records["peft"], records["unsloth"]
    assert ours.ids == theirs.ids
    assert len(set(ours.ids)) == 8
    assert ours.losses[0] == pytest.approx(theirs.losses[0], rel=tolerance(machine))
    assert theirs.losses == pytest.approx(ours.losses, rel=5 * tolerance(machine))
    if steps == 50:
        assert sum(ours.losses[-4:]) < 0.9 * sum(ours.losses[:4])  # flat lines would stay together, too


@pytest.mark.parametrize(("first", "second"), [("peft", "unsloth"), ("unsloth", "peft")])
def test_an_adapter_loads_in_the_other_and_in_plain_peft(
    make: Make, trainer: Any, machine: str, jsonl: Path, tmp_path: Path, first: str, second: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from deepsynth.models.registry import resolve_model_name

    module = make(first, experts="all")
    train(module, trainer, jsonl, steps=2)
    module.save_adapter(tmp_path / "adapter")
    data, device = data_of(jsonl), "cuda" if machine == "gpu" else "cpu"
    data.setup("fit")
    batch = data.transfer_batch_to_device(next(iter(data.val_dataloader())), torch.device(device), 0)
    losses = {}
    other = make(second, experts="all", adapter=str(tmp_path / "adapter"))
    other.to(device)
    other.configure_model()
    for name, each in ((first, module), (second, other)):
        each.to(device).eval()
        with torch.no_grad():
            losses[name] = float(each.compute_loss(batch))
    assert losses[second] == pytest.approx(losses[first], rel=tolerance(machine))

    base = AutoModelForImageTextToText.from_pretrained(
        resolve_model_name("deepsynth/tiny-random"), dtype=module.resolved_dtype
    ).to(device)
    inputs = {n: t.to(base.dtype) if t.is_floating_point() else t for n, t in batch.inputs.items()}
    with torch.no_grad():
        bare = float(base(**inputs).loss)
        plain = float(PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(**inputs).loss)
    assert plain == pytest.approx(losses[first], rel=tolerance(machine))
    assert abs(plain - bare) > 10 * abs(plain - losses[first])


@pytest.mark.parametrize(("first", "second"), [("peft", "unsloth"), ("unsloth", "peft")])
def test_a_checkpoint_of_one_is_validated_by_the_other(
    make: Make, trainer: Any, machine: str, jsonl: Path, tmp_path: Path, first: str, second: str
) -> None:
    module = make(first, samples=2)
    run = trainer(max_steps=2, limit_val_batches=0)
    run.fit(module, data_of(jsonl))
    run.save_checkpoint(tmp_path / "run.ckpt")
    expected = trainer().validate(module, data_of(jsonl), verbose=False)[0]
    found = trainer().validate(
        make(second, samples=2), data_of(jsonl), ckpt_path=str(tmp_path / "run.ckpt"), verbose=False
    )[0]
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=tolerance(machine))
    assert machine == "gpu" or found == pytest.approx(expected, rel=1e-4)


def test_unsloths_model_is_read_by_the_packages_decoder_too(
    make: Make, trainer: Any, machine: str, jsonl: Path
) -> None:
    read = {}
    for backend, generation in (("unsloth", "transformers"), ("unsloth", "deepsynth"), ("peft", "deepsynth")):
        module = make(backend, implementation=generation, max_new_tokens=12)
        batches = trainer(limit_predict_batches=3).predict(module, data_of(jsonl))
        assert module.text_generator.uses_decoder == (generation == "deepsynth")
        read[backend, generation] = [(row["id"], row["prediction"]) for rows in batches for row in rows]
    first, *others = read.values()
    assert any(text for _, text in first)
    for other in others:
        assert [name for name, _ in other] == [name for name, _ in first]
        assert machine == "gpu" or other == first


@pytest.mark.parametrize(("first", "second"), [("peft", "unsloth"), ("unsloth", "peft")])
def test_the_class_that_the_command_asks_for_wins_over_the_checkpoints(
    make: Make, trainer: Any, jsonl: Path, tmp_path: Path, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"quantization": "none"} if first == "unsloth" else {"double_quantization": False}
    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(make(first, rank=4, **own), data_of(jsonl))
    run.save_checkpoint(tmp_path / "run.ckpt")
    seen: list[Any] = []
    for cls in BACKENDS.values():
        start = cls.on_validation_epoch_end
        monkeypatch.setattr(
            cls, "on_validation_epoch_end", lambda self, start=start: (seen.append(self), start(self))[1]
        )
    arguments = [
        "validate", f"--ckpt_path={tmp_path / 'run.ckpt'}", f"--model={BACKENDS[second].__name__}",
        "--data.source=JsonlSource", f"--data.source.path={jsonl}", "--data.batch_size=4",
        "--data.val_source=JsonlSource", f"--data.val_source.path={jsonl}", "--data.renderer=TextRenderer",
        "--data.renderer.page_width_px=384", "--data.renderer.page_height_px=384", "--data.renderer.font_size_px=14",
        "--model.generation.samples=0", f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert {type(module) for module in seen} == {BACKENDS[second]}
    assert seen[0].lora.rank == 4
