"""Whole runs with a Hub that works, fails, hangs: the training must not notice."""

from __future__ import annotations

import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from safetensors.torch import load_file

from deepsynth.callbacks.hub_checkpoint import HubCheckpoint
from deepsynth.errors import UserError
from deepsynth.hub.worker import PushWorker, resume
from deepsynth.models.registry import resolve_model_name
from deepsynth.modules.adapter import from_file_name
from tests.conftest import TEXTS
from tests.helpers.hub_server import HubProcess
from tests.helpers.local_hub import TOKEN, local_hub
from tests.helpers.pushes import QUICK, WarmAttempts
from tests.helpers.training import make_data, make_module, make_trainer
from tests.hub.test_faults import FAULTS


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with local_hub(tmp_path_factory.mktemp("hub")) as process:
        yield process


@pytest.fixture(autouse=True)
def talk_to(hub, monkeypatch):
    hub.reset()
    hub.clear_faults()
    env = hub.env(hub.home / str(time.monotonic_ns()), token=TOKEN, redirect=False)
    for key in set(os.environ) - set(env):
        monkeypatch.delenv(key)
    for key, value in env.items():
        monkeypatch.setenv(key, value)


def fit(folder: Path, jsonl: Path, *callbacks: Callback, steps: int = 4, **kwargs: Any):
    module = make_module(samples=2)
    data = make_data(jsonl, **({"val_fraction": 0.5} if kwargs else {}))
    trainer = make_trainer(folder, callbacks=list(callbacks), max_steps=steps, max_epochs=-1, **kwargs)
    trainer.fit(module, data)
    return module, trainer


def weights(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def titles(hub, revision: str = "main") -> list[str]:
    return [commit["title"] for commit in hub.repo("alice/ocr").commits(revision)][:-1]


def test_a_run_ends_on_the_hub_with_the_weights_it_would_have_had(hub, tmp_path, jsonl, caplog):
    caplog.set_level(logging.DEBUG)
    alone, _ = fit(tmp_path / "alone", jsonl)
    callback = HubCheckpoint("alice/ocr", every=2, tag="step-{step}", license="mit", languages=["en"])
    pushed, _ = fit(tmp_path / "run", jsonl, callback)
    assert same(weights(alone), weights(pushed))
    assert titles(hub)[0] == "Step 4"
    assert hub.repo("alice/ocr").meta["private"]
    folder = hub.repo("alice/ocr").checkout(tmp_path / "checkout", "step-4")
    card = (folder / "README.md").read_text()
    assert "JsonlSource" in card
    assert "license: mit" in card
    assert "optimizer.class | AdamW" in card
    for place in ("/tmp", str(tmp_path), str(Path.home()), resolve_model_name("deepsynth/tiny-random")):
        assert place not in card
        assert place not in (folder / "adapter_config.json").read_text()
        assert place not in (folder / "deepsynth.json").read_text()
    assert TOKEN not in caplog.text
    assert "deepsynth hub resume" not in caplog.text
    run_files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not any(TOKEN.encode() in p.read_bytes() for p in run_files)


def test_peft_alone_reads_what_was_pushed_and_validation_pushes_nothing(hub, tmp_path, jsonl):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    callback = HubCheckpoint("alice/ocr")
    pushed, _ = fit(tmp_path, jsonl, callback, steps=1)
    data = make_data(jsonl, val_fraction=0.5)
    make_trainer(tmp_path, callbacks=[callback]).validate(make_module(samples=1), data, verbose=False)
    assert titles(hub) == ["Step 1"]
    base = AutoModelForImageTextToText.from_pretrained(resolve_model_name("deepsynth/tiny-random"))
    loaded = PeftModel.from_pretrained(base, hub.repo("alice/ocr").checkout(tmp_path / "checkout"))
    ours = {name: p for name, p in pushed.model.named_parameters() if "lora_" in name}
    assert same(ours, {name: p for name, p in loaded.named_parameters() if "lora_" in name})


@pytest.mark.parametrize("path", ["/", pytest.param("__cas__", marks=pytest.mark.slow)])
def test_a_hub_that_hangs_for_ever(hub, tmp_path, jsonl, caplog, path):
    hub.fault(path=path, action="hang", seconds=600, times=-1)
    begin = time.monotonic()
    _, trainer = fit(tmp_path, jsonl, HubCheckpoint("alice/ocr", deadline_s=2))
    assert time.monotonic() - begin < 300, "the Hub would have held it up for ten minutes"
    assert trainer.state.finished
    assert "deepsynth hub resume" in caplog.text
    hub.clear_faults()
    resume(tmp_path, 180, backoff=QUICK)
    assert titles(hub) == ["Step 4"]


class Breaks(Callback):
    def __init__(self, error: BaseException, step: int = 3) -> None:
        self.error, self.step = error, step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


@pytest.mark.parametrize("works", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_error_that_ended_a_run_is_the_error_that_is_raised(hub, tmp_path, jsonl, works):
    if not works:
        hub.fault(path="/", status=500, times=-1)
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(
            tmp_path,
            jsonl,
            HubCheckpoint("alice/ocr", every=2, deadline_s=180 if works else 1),
            Breaks(ZeroDivisionError("mine")),
        )
    if not works:
        hub.clear_faults()
        resume(tmp_path, 180, backoff=QUICK)
    assert titles(hub) == ["Step 2"], "what was whole is delivered; the state that broke is not"


def test_ctrl_c_delivers_the_state_it_stopped_in(hub, tmp_path, jsonl):
    with pytest.raises(SystemExit):
        fit(tmp_path, jsonl, HubCheckpoint("alice/ocr", deadline_s=180), Breaks(KeyboardInterrupt()))
    assert titles(hub) == ["Step 3"]


class Scores(Callback):
    """Logs given values."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("val/score", next(self.values))


def test_best_only_pushes_what_is_better(hub, tmp_path, jsonl):
    callback = HubCheckpoint("alice/ocr", best_only=True, monitor="val/score", tag="best", revision="best-branch")
    scores = Scores([0.5, 0.7, float("nan"), 0.3])
    fit(tmp_path, jsonl, scores, callback, val_check_interval=1, check_val_every_n_epoch=None)
    pushed = titles(hub, "best-branch")
    assert pushed[0] == "Step 4, val/score 0.3000"
    assert set(pushed) <= {"Step 4, val/score 0.3000", "Step 1, val/score 0.5000"}
    assert hub.repo("alice/ocr").resolve("best") == hub.repo("alice/ocr").resolve("best-branch")
    assert callback.state_dict()["best"] == pytest.approx(0.3)
    card = hub.repo("alice/ocr").read("README.md", "best-branch").decode()
    assert "val/score | 0.3" in card
    assert "tokens a sample" in card


def test_with_mode_max_more_is_better(hub: HubProcess, tmp_path: Path, jsonl: Path) -> None:
    callback = HubCheckpoint("alice/ocr", best_only=True, monitor="val/score", mode="max")
    scores = Scores([0.5, 0.3, 0.7, 0.6])
    fit(tmp_path, jsonl, scores, callback, val_check_interval=1, check_val_every_n_epoch=None)
    pushed = titles(hub)
    assert pushed[0] == "Step 3, val/score 0.7000"
    assert set(pushed) <= {"Step 3, val/score 0.7000", "Step 1, val/score 0.5000"}
    assert callback.state_dict()["best"] == pytest.approx(0.7)


def test_a_full_disk_does_not_end_the_run(hub, tmp_path, jsonl, caplog, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepsynth.hub.spool.os.fsync", full)
    _, trainer = fit(tmp_path, jsonl, HubCheckpoint("alice/ocr", every=2))
    assert trainer.state.finished
    assert "step 4 could not be written" in caplog.text


def test_another_kind_of_module_is_refused_before_the_first_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(TypeError, match="adapter of a DeepSynthModule; LightningModule is none"):
        HubCheckpoint("alice/ocr").setup(trainer, LightningModule(), "fit")


def test_a_run_folder_that_cannot_hold_the_queue_is_named_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "hub_spool").write_text("a file in the way")
    with pytest.raises(UserError, match="the queue of the Hub cannot be written"):
        HubCheckpoint("alice/ocr").setup(make_trainer(tmp_path), make_module(), "fit")


@pytest.mark.slow
def test_optimizer_state_goes_up_only_if_asked(hub, tmp_path, jsonl):
    fit(tmp_path, jsonl, HubCheckpoint("alice/ocr", optimizer_state=True, deadline_s=60), steps=2)
    file = hub.repo("alice/ocr").checkout(tmp_path / "checkout") / "optimizer.pt"
    assert torch.load(file, weights_only=True)["step"] == 2


def test_a_trial_run_and_validation_push_nothing(hub, tmp_path, jsonl):
    callback = HubCheckpoint("alice/ocr")
    fit(tmp_path, jsonl, callback, fast_dev_run=True)
    make_trainer(tmp_path, callbacks=[callback]).validate(make_module(samples=1), make_data(jsonl), verbose=False)
    assert hub.log() == []
    assert not (tmp_path / "hub_spool").exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"repo_id": "ocr"}, "repo_id is 'ocr'"),
        ({"every": 0}, "every is 0"),
        ({"every": 2, "best_only": True}, "HubCheckpoint.every is 2; it must be null with HubCheckpoint.best_only"),
        ({"mode": "less"}, "mode is 'less'"),
        ({"deadline_s": -1}, "deadline_s is -1"),
        ({"tag": "{loss}"}, "only {step} and {epoch}"),
        ({"tag": "a b"}, "a word without spaces"),
        ({"revision": "a b"}, "revision is 'a b'"),
    ],
)
def test_mistakes_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint.replace("{", r"\{")):
        HubCheckpoint(**{"repo_id": "alice/ocr", **settings})


#: Beside every fault of the list at each request, and at the first alone.
MORE_FAULTS: list[dict[str, Any]] = [
    {"path": "/", "status": 503, "times": 3},
    {"path": "/", "probability": 0.3, "seed": 1, "status": 500, "times": -1},
    {"path": "/", "probability": 0.3, "seed": 2, "action": "drop", "when": "after", "times": -1},
    {"path": "/commit/", "action": "drop", "when": "after", "times": 2},
    {"path": "/commit/", "status": 412, "times": 2},
    {"path": "/commit/", "action": "hang", "seconds": 600, "when": "after", "times": -1},
    {"path": "/revision/", "status": 401, "times": -1},
    {"path": "/commit/", "status": 403, "times": -1},
    {"path": "repos/create", "status": 429, "retry_after": 1, "times": 2},
    {"path": "__cas__", "status": 503, "times": -1},
]
WHOLE_RUNS = [{"path": "/", **fault, "times": times} for fault in FAULTS for times in (-1, 1)] + MORE_FAULTS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, hub) -> dict[str, torch.Tensor]:
    """The weights of eight steps without a Hub."""
    folder = tmp_path_factory.mktemp("alone")
    documents = folder / "docs.jsonl"
    documents.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    return weights(fit(folder, documents, steps=8)[0])


@pytest.mark.slow
@pytest.mark.parametrize("fault", WHOLE_RUNS, ids=lambda f: "-".join(map(str, f.values())).replace("/", ""))
def test_whole_runs_through_faults(
    hub, tmp_path, jsonl, monkeypatch, undisturbed, caplog, record_property, fault
):  # fmt: skip
    """The run ends with its own weights, says in a line what is not on the Hub, and nothing is lost or doubled."""
    caplog.set_level(logging.INFO, "deepsynth")
    quick = partial(PushWorker, request_timeout_s=2.0, backoff=QUICK)
    monkeypatch.setattr("deepsynth.callbacks.hub_checkpoint.PushWorker", quick)
    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", WarmAttempts())
    hub.fault(**fault)
    callback = HubCheckpoint("alice/ocr", every=2, deadline_s=60 if fault["times"] == 1 else 5)
    module, trainer = fit(tmp_path, jsonl, callback, steps=8)
    assert trainer.state.finished
    assert same(undisturbed, weights(module))
    assert hub.faults()[0]["hits"] > 0
    said = [record.getMessage() for record in caplog.records if record.name.startswith("deepsynth.hub")]
    waits = list((tmp_path / "hub_spool").glob("*/[0-9]*-*"))
    for line in said:
        assert "\n" not in line
        assert "Traceback" not in line
    assert any("deepsynth hub resume" in line for line in said) == bool(waits)
    record_property("said", json.dumps(said))
    hub.clear_faults()
    resume(tmp_path, 180, backoff=QUICK)
    hub.wait_idle(quiet=0.2)
    record_property("titles", json.dumps(titles(hub)))
    assert titles(hub)[0] == "Step 8"
    assert len(set(titles(hub))) == len(titles(hub)), "nothing twice"
    state = load_file(hub.repo("alice/ocr").checkout(tmp_path / "checkout") / "adapter_model.safetensors")
    stored = {from_file_name(name): tensor for name, tensor in state.items()}
    ours = {n.replace(".default", ""): p for n, p in module.model.named_parameters() if "lora_" in n}
    assert same(stored, {name: ours[name].detach() for name in stored})
    assert len(stored) == len(ours)


def test_what_is_not_finite_is_never_pushed(hub, tmp_path, jsonl):
    class Spoil(Callback):
        """Makes the weights what an overflow leaves, in the third step."""

        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            if trainer.global_step == 2:
                next(p for p in module.parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(UserError, match="is not finite, so training stops"):
        fit(tmp_path, jsonl, Spoil(), HubCheckpoint("alice/ocr", every=1), steps=5)
    assert titles(hub)
    assert set(titles(hub)) <= {"Step 1", "Step 2"}
    folder = hub.repo("alice/ocr").checkout(tmp_path / "checkout", "main")
    pushed = load_file(folder / "adapter_model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in pushed.values())
