"""The private parts of Lightning that ``compat.lightning`` relies on exist and behave as assumed, in real trainers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.compat.lightning import (
    find_unused_parameters,
    gradients_wait,
    ignore_sigterm,
    is_last_predict_batch,
    leave_out_sigterm_broadcast,
    logs_after_batch,
    pending_metrics,
    restore_loader,
    set_batches_done,
    set_received_sigterm,
    set_root_folder,
    use_one_mesh,
)
from tests.helpers.ranks import in_ranks
from tests.helpers.training import make_trainer


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the signal handlers, and let a stray SIGTERM not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


class Act(Callback):
    """Calls a function at one hook of a run."""

    def __init__(self, hook: str, action: Any, batch: int = 0) -> None:
        def call(trainer: Trainer, pl_module: Any, *args: Any) -> None:
            if not args or args[-1] == batch:
                action(trainer)

        setattr(self, hook, call)


def test_the_root_folder_of_a_trainer_can_change(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "own", max_steps=1)
    set_root_folder(trainer, str(tmp_path / "of rank zero"))
    assert trainer.default_root_dir == str(tmp_path / "of rank zero")
    assert trainer.checkpoint_callback is None
    trainer.fit(BoringModel())
    assert not (tmp_path / "own").exists()


def test_the_flag_ends_a_fit_after_the_batch(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        callbacks=[Act("on_train_batch_end", lambda trainer: set_received_sigterm(trainer, True), batch=2)],
        max_epochs=1,
        limit_train_batches=8,
    )
    with pytest.raises(SIGTERMException):
        trainer.fit(BoringModel())
    assert trainer.received_sigterm
    assert trainer.global_step == 3


def test_lightning_reacts_to_sigterm_itself(tmp_path: Path) -> None:
    """Otherwise ``ignore_sigterm`` has nothing to do and can go."""
    raises = Act("on_train_batch_start", lambda _: signal.raise_signal(signal.SIGTERM), batch=1)
    trainer = make_trainer(tmp_path, callbacks=[raises], max_epochs=1, limit_train_batches=8)
    with pytest.raises(SIGTERMException):
        trainer.fit(BoringModel())
    assert trainer.global_step == 2


def test_sigterm_reaches_the_handler_before_lightning_s_alone(tmp_path: Path) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    trainer = make_trainer(
        tmp_path,
        callbacks=[Act("on_train_batch_start", lambda _: signal.raise_signal(signal.SIGTERM), batch=1)],
        max_epochs=1,
        limit_train_batches=8,
    )
    ignore_sigterm(trainer)
    trainer.fit(BoringModel())
    assert received == [signal.SIGTERM]
    assert not trainer.received_sigterm
    assert trainer.global_step == 8


@pytest.mark.parametrize("left_out", [False, True])
def test_lightning_asks_about_sigterm_before_every_batch(
    left_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> int:
        asked: list[str] = []
        trainer = make_trainer(tmp_path, max_steps=2)
        if left_out:
            leave_out_sigterm_broadcast(trainer)

        def pretend_to_be_two(trainer: Trainer) -> None:
            monkeypatch.setattr(Trainer, "world_size", 2)
            monkeypatch.setattr(torch.distributed, "broadcast", lambda *args, **kwargs: asked.append("broadcast"))

        trainer.callbacks.append(Act("on_train_start", pretend_to_be_two))
        trainer.fit(BoringModel())
        return len(asked)

    assert in_ranks(run, 1, tmp_path) == [0 if left_out else 2]


def test_the_sizes_of_a_mesh_are_chosen_late() -> None:
    """That they count is shown by the runs of several processes in tests/distributed."""
    strategy = ModelParallelStrategy()
    assert vars(strategy)["_data_parallel_size"] == vars(strategy)["_tensor_parallel_size"] == "auto"
    use_one_mesh(strategy, 3)
    assert (vars(strategy)["_data_parallel_size"], vars(strategy)["_tensor_parallel_size"]) == (3, 1)


def test_ddp_looks_for_unused_parameters_when_told_late(tmp_path: Path) -> None:
    seen: list[bool] = []
    strategy = DDPStrategy(find_unused_parameters=False, process_group_backend="gloo")
    look = Act("on_train_batch_end", lambda trainer: seen.append(trainer.strategy.model.find_unused_parameters))

    class Late(BoringModel):
        def configure_model(self) -> None:
            find_unused_parameters(self.trainer.strategy)

    make_trainer(tmp_path, strategy=strategy, max_steps=1, limit_val_batches=0, callbacks=[look]).fit(Late())
    torch.distributed.destroy_process_group()
    assert seen == [True]


def test_the_last_predict_batch_is_known(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Predicts(BoringModel):
        def predict_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(is_last_predict_batch(self.trainer))

    make_trainer(tmp_path, limit_predict_batches=3).predict(Predicts())
    assert seen == [False, False, True]


def test_gradients_wait_between_optimizer_steps(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            seen.append(gradients_wait(trainer))

    arguments = {"accumulate_grad_batches": 2, "limit_train_batches": 5, "limit_val_batches": 0, "max_epochs": 1}
    make_trainer(tmp_path, callbacks=[Look()], **arguments).fit(BoringModel())
    assert seen == [True, False, True, False, False]  # an epoch's last batch steps


@pytest.mark.parametrize("restarting", [False, True])
@pytest.mark.parametrize("states", [[], [{"place": 3}]])
def test_a_loader_begins_again_from_its_place_where_a_checkpoint_has_one(restarting: bool, states: list[Any]) -> None:
    """That Lightning asks for it in this order is shown by the resumed runs in tests/data/loading."""
    events: list[str] = []

    class Fetcher:
        def __iter__(self) -> Iterator[Any]:
            events.append("begin")
            return iter(())

    loop = SimpleNamespace(
        restarting=restarting, _combined_loader_states_to_load=states, _data_fetcher=Fetcher(),
        _load_combined_loader_states=lambda: events.append("load"),
    )  # fmt: skip
    restore_loader(SimpleNamespace(fit_loop=loop))  # type: ignore[arg-type]
    assert events == (["load", "begin"] if restarting and states else [])


def test_the_number_of_batches_that_are_done_can_change(tmp_path: Path) -> None:
    class Skip(Callback):
        batches = 0

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            restore_loader(trainer)  # nothing to restore in a run of its own

        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            self.batches += 1
            if self.batches == 1:
                set_batches_done(trainer, 5)
                current = trainer.fit_loop.epoch_loop.batch_progress.current
                assert (current.ready, current.started, current.processed, current.completed) == (5, 5, 5, 4)

    skip = Skip()
    make_trainer(
        tmp_path, callbacks=[skip], max_epochs=1, limit_train_batches=8, limit_val_batches=0
    ).fit(BoringModel())  # fmt: skip
    assert skip.batches == 1 + 3, "three of eight are left after five"


@pytest.mark.parametrize(
    ("settings", "own_step", "steps"),
    [
        ({"log_every_n_steps": 2}, None, [1]),
        ({"log_every_n_steps": 1}, None, [0, 1, 2]),
        ({"log_every_n_steps": 1, "accumulate_grad_batches": 2}, None, [0, 1]),  # the last batch of an epoch steps
        ({"log_every_n_steps": 1}, 7.0, [7, 7, 7]),
    ],
)
def test_the_row_that_is_logged_next_is_known_at_the_end_of_a_batch(
    settings: dict[str, Any], own_step: float | None, steps: list[int], tmp_path: Path
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    class Logs(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", float(batch_idx))
            if own_step is not None:
                self.log("step", own_step)
            return super().training_step(batch, batch_idx)

    class Keeps(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            logged.append((dict(metrics), step))

    logged: list[Any] = []
    due: list[Any] = []
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_validation_end")
    trainer = make_trainer(
        tmp_path,
        callbacks=[
            Act(hook, lambda trainer: due.append(pending_metrics(trainer)), batch=batch)
            for hook in hooks
            for batch in range(3)
        ],
        logger=Keeps(tmp_path),
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(Logs())
    assert [row for row in due if row is not None] == [row for row in logged if "loss" in row[0]]
    assert [step for row, step in logged if "loss" in row] == steps
    assert all(("epoch" in row) == (own_step is None) for row, _ in logged if "loss" in row)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_is_known_in_a_step_whether_lightning_logs_after_it(accumulate: int, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    said: list[bool] = []
    logged: list[int] = []

    class Steps(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            said.append(logs_after_batch(self.trainer))
            self.log("batch", torch.tensor(float(len(said))))
            return super().training_step(batch, batch_idx)

    class Keeps(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            logged.append(int(metrics["batch"]))

    trainer = make_trainer(
        tmp_path,
        logger=Keeps(tmp_path),
        max_epochs=2,
        limit_train_batches=14,
        limit_val_batches=0,
        log_every_n_steps=2,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(Steps())
    assert len(said) == 28
    assert logged == [number for number, logs in enumerate(said, 1) if logs]
    assert logged
