"""What every family does, on a tiny random model of its own classes: trained, resumed, generated, written, merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from deepsynth.callbacks.sample_gallery import pictures_of
from deepsynth.export import export_model
from deepsynth.models.lora import LoraSettings, lora_config, scope_parameters
from deepsynth.models.registry import family_of, load_pretrained
from tests.helpers.processes import launch
from tests.helpers.training import make_trainer
from tests.models.families.conftest import MAKERS
from tests.models.families.runs import TEXTS, Losses, Run, Sizes, batch_of, data_of, loss_of, module_of, paged_batch


def test_what_the_maker_wrote_is_recognized(family: str, folder: Path) -> None:
    found = family_of(load_pretrained(AutoConfig, str(folder)))
    assert found.name in (family, "generic")


def test_the_loss_is_transformers_own(family: str, folder: Path) -> None:
    module = module_of(folder)
    module.configure_model()
    base = load_pretrained(AutoModelForImageTextToText, str(folder), dtype=torch.float32).eval()
    batch = batch_of(folder, MAKERS[family].PAGES)
    for each in (module.train(), module.eval()):
        assert float(each.compute_loss(batch).detach()) == pytest.approx(loss_of(base, batch), rel=1e-5)


def test_parameters_of_adapters_are_counted_as_peft_makes_them(folder: Path) -> None:
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, str(folder)))
        counts = scope_parameters(base, 4)
        for scope, count in counts.items():
            part, _, value = scope.partition("=")
            lora = LoraSettings(rank=4, **{"attention": False, part: value or True})
            adapted = get_peft_model(copy.deepcopy(base), lora_config(base, lora, base_model_name="base"))
            assert count == sum(p.numel() for p in adapted.parameters() if p.requires_grad), scope
    assert {"attention", "mlp", "vision"} <= counts.keys()


def test_layers_that_keep_less_train_the_same(family: str, folder: Path, tmp_path: Path) -> None:
    pages = MAKERS[family].PAGES
    plain = train(folder, pages, tmp_path / "plain", 1)
    assert train(folder, pages, tmp_path / "less", 1, activation_memory="full") == pytest.approx(plain, rel=1e-6)


def test_tokens_are_counted_as_the_prompt_has_them(family: str, folder: Path) -> None:
    """And the model, which compares tokens with features, takes the prompt."""
    data = data_of(folder, MAKERS[family].PAGES)
    processor = data.processor
    batch = batch_of(folder, MAKERS[family].PAGES)
    counts = (batch.tokens["input_ids"] == processor.hf_processor.image_token_id).sum(1).tolist()
    assert counts == [processor.layout.tokens(*sizes[0]) for sizes in batch.sizes]
    assert min(counts) > 0


def test_several_pages_are_one_sample(family: str, folder: Path) -> None:
    """Beside a sample of one page; the loss is transformers' own, and each page has its tokens."""
    module = module_of(folder)
    module.configure_model()
    base = load_pretrained(AutoModelForImageTextToText, str(folder), dtype=torch.float32).eval()
    processor, batch = paged_batch(folder, MAKERS[family].PAGES)
    counts = (batch.tokens["input_ids"] == processor.hf_processor.image_token_id).sum(1).tolist()
    assert counts == [sum(processor.layout.tokens(*size) for size in sizes) for sizes in batch.sizes]
    assert [len(sizes) for sizes in batch.sizes] == [1, 3]
    shown = [len(pages) for pages in pictures_of(batch, module)]
    assert shown == [0, 0] or (shown[0] >= 1 and shown[1] >= 3)  # no pictures, pages or their tiles
    assert float(module.train().compute_loss(batch).detach()) == pytest.approx(loss_of(base, batch), rel=1e-5)


def test_a_batch_is_as_its_samples_one_by_one(run: Run) -> None:
    together = batch_of(run.folder, run.sizes)
    data = data_of(run.folder, run.sizes, batch_size=1)
    data.setup("fit")
    singles = [batch.with_pixel_values() for batch in data.val_dataloader()]
    with torch.no_grad():
        losses = [float(run.module.compute_loss(batch)) for batch in singles]
        counts = [int((batch.tokens["labels"] != -100).sum()) for batch in singles]
        mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
        assert float(run.module.compute_loss(together)) == pytest.approx(mean, rel=1e-3, abs=1e-5)
    texts = [generation.text for batch in singles for generation in run.module.generate(batch) or []]
    assert [generation.text for generation in run.module.generate(together) or []] == texts


def test_a_batch_is_learned_until_greedy_texts_are_the_targets(run: Run) -> None:
    batches = make_trainer(run.folder.parent).predict(run.module, data_of(run.folder, run.sizes, batch_size=2))
    rows = [row for rows in batches or [] for row in rows]
    assert [row["prediction"] for row in rows] == list(TEXTS)
    assert {row["stop"] for row in rows} == {"eos"}


def test_validation_loads_the_checkpoint(run: Run) -> None:
    module = module_of(run.folder, rank=32, samples=4)
    data, checkpoint = data_of(run.folder, run.sizes), str(run.folder.parent / "run.ckpt")
    found = make_trainer(run.folder.parent).validate(module, data, ckpt_path=checkpoint, verbose=False)[0]
    assert found["val/cer"] == 0
    with torch.no_grad():
        expected = float(run.module.compute_loss(batch_of(run.folder, run.sizes)))
    assert found["val/loss"] == pytest.approx(expected, rel=1e-4)


def test_the_adapter_loads_in_plain_peft(run: Run) -> None:
    from peft import PeftModel

    base = load_pretrained(AutoModelForImageTextToText, str(run.folder), dtype=torch.float32).eval()
    batch = batch_of(run.folder, run.sizes)
    before = loss_of(base, batch)
    after = loss_of(PeftModel.from_pretrained(base, str(run.adapter)).eval(), batch)
    with torch.no_grad():
        assert after == pytest.approx(float(run.module.compute_loss(batch)), rel=1e-4)
    assert after < 0.1 * before


def test_the_merged_model_is_written_and_verified(run: Run, tmp_path: Path) -> None:
    report = export_model(adapter=run.adapter, output=tmp_path / "merged", base=str(run.folder))
    assert report.changed == len(run.module.model.peft_config) * _adapted(run)
    merged = load_pretrained(AutoModelForImageTextToText, str(tmp_path / "merged"), dtype=torch.float32).eval()
    batch = batch_of(run.folder, run.sizes)
    with torch.no_grad():
        expected = float(run.module.compute_loss(batch))
    assert loss_of(merged, batch) == pytest.approx(expected, rel=0.05, abs=1e-3)


def _adapted(run: Run) -> int:
    from deepsynth.models.lora_init import adapted_layers

    return len(list(adapted_layers(run.module.model)))


def train(
    folder: Path, sizes: Sizes, to: Path, processes: int, *, steps: int = 2, ckpt: Path | None = None, **settings: Any
) -> list[float]:
    """Train on all pages in each step, write a checkpoint, and return the losses."""
    losses, several = Losses(), {"strategy": "ddp"} if processes > 1 else {}
    trainer = make_trainer(
        to, max_steps=steps, callbacks=[losses], limit_val_batches=0, devices=processes, max_epochs=-1, **several
    )
    trainer.fit(
        module_of(folder, **settings), data_of(folder, sizes, batch_size=len(TEXTS) // processes), ckpt_path=ckpt
    )
    trainer.save_checkpoint(to / f"{steps}.ckpt")
    return losses.values


def test_two_processes_are_as_one_and_a_resumed_run_as_one_without_a_break(
    family: str, folder: Path, tmp_path: Path
) -> None:
    pages = MAKERS[family].PAGES
    one = train(folder, pages, tmp_path / "one", 1)
    for several in launch(2, tmp_path / "two", train, folder, pages, tmp_path / "two", 2):
        assert several == pytest.approx(one, rel=2e-4)
    train(folder, pages, tmp_path / "broken", 1, steps=1)
    train(folder, pages, tmp_path / "broken", 1, ckpt=tmp_path / "broken/1.ckpt")
    whole, again = (torch.load(tmp_path / name / "2.ckpt", weights_only=True) for name in ("one", "broken"))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(again["state_dict"][name], tensor), name
