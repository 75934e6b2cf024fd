"""A merged DeepSeek-OCR that transformers loads by itself, and computes to the same numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepsynth.errors import UserError
from deepsynth.export.merge import ExportReport, export_model
from deepsynth.export.verification import probe_inputs
from deepsynth.models import register
from deepsynth.models.registry import load_pretrained
from tests.export.test_export import HAS_LAYERS, base, write_adapter

__all__ = ["base"]

register()


#: Run without DeepSynth: logits and 40 greedy tokens for inputs that are given as a file.
PLAIN = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

folder, inputs, output = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
given = load_file(inputs)
lists = {name: given.pop(name).tolist() for name in ("num_local_patches", "patches_grid")}
with torch.inference_mode():
    logits = model(**given, **lists).logits
    tokens = model.generate(**given, **lists, max_new_tokens=40, do_sample=False)
save_file({"logits": logits.contiguous(), "tokens": tokens}, output)
print(type(model).__module__, any(name.partition(".")[0] == "deepsynth" for name in sys.modules))
"""


@HAS_LAYERS
def test_logits_are_the_same_in_a_process_without_deepsynth(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "adapter", "all", strength=0.2)
    plain = export_model(adapter, output=tmp_path / "plain", format="transformers")
    native = export_model(adapter, output=tmp_path / "native")
    assert isinstance(plain, ExportReport)
    assert isinstance(native, ExportReport)
    assert "without DeepSynth" in str(plain)
    assert "import deepsynth.models; deepsynth.models.register()" in str(native)
    # CLIP's patch embedding, which is never used, has no place there.
    assert (plain.changed, plain.unchanged) == (native.changed, native.unchanged - 1)
    assert plain.agreement.max_difference == pytest.approx(native.agreement.max_difference, abs=1e-5)

    inputs = probe_inputs(str(base), "cpu")
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs.safetensors")
    command = [sys.executable, "-c", PLAIN, *(str(tmp_path / n) for n in ("plain", "inputs.safetensors", "out"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == ["transformers.models.unlimited_ocr.modeling_unlimited_ocr", "False"]
    found = load_file(tmp_path / "out")
    model = load_pretrained(AutoModelForImageTextToText, str(tmp_path / "native"), dtype=torch.float32).eval()
    with torch.inference_mode():
        # Attention gets a mask there, and adds in another order.
        torch.testing.assert_close(found["logits"], model(**inputs).logits, rtol=0, atol=1e-5)
        assert torch.equal(found["tokens"], model.generate(**inputs, max_new_tokens=40, do_sample=False))


@HAS_LAYERS
def test_transformers_processor_makes_the_same_inputs(base: Path, tmp_path: Path) -> None:
    """Prompt, image tokens and pixels; the chat template stands for the prompt's fixed form."""
    export_model(write_adapter(str(base), tmp_path / "adapter"), output=tmp_path / "out", format="transformers")
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__module__ == "transformers.models.unlimited_ocr.processing_unlimited_ocr"
    for size in ((256, 256), (900, 700)):  # the second is cut into tiles
        page = Image.effect_noise(size, 90).convert("RGB")
        content = [{"type": "image", "image": page}, {"type": "text", "text": "Free OCR."}]
        found = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        expected = load_pretrained(AutoProcessor, str(base))(images=page, text="<image>\nFree OCR.")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(torch.as_tensor(found[name]), tensor), name


def test_models_of_transformers_are_written_as_they_are(tmp_path: Path) -> None:
    adapter = write_adapter("deepsynth/tiny-random", tmp_path / "adapter", "attention", strength=0.2)
    report = export_model(adapter, output=tmp_path / "out", format="transformers", dtype="float32")
    assert isinstance(report, ExportReport)
    assert report.notes == ()
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path / "out")).__name__.startswith("DeepseekOcr2")


def test_a_transformers_without_the_layers_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsynth.export.plain_transformers.MODEL_TYPE", "not_there")
    adapter = write_adapter(str(base), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"the installed transformers has no not_there .*; use --format native"):
        export_model(adapter, output=tmp_path / "out", format="transformers")
    assert not (tmp_path / "out").exists()
