"""What the package assumes of bitsandbytes' private parts."""

from __future__ import annotations

import warnings
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.autograd import _functions

from deepsynth.compat.bitsandbytes import keep_packed_on_cpu, silence_casts


def test_the_warning_of_casts_comes_from_the_logger_that_is_silenced(caplog: pytest.LogCaptureFixture) -> None:
    assert _functions.logger.name == "bitsandbytes.autograd._functions"
    silence_casts()
    _functions.logger.warning("a product was cast")
    assert not caplog.records
    _functions.logger.error("a product failed")
    assert [record.getMessage() for record in caplog.records] == ["a product failed"]


def test_layers_ask_the_attribute_before_they_repack_their_weights() -> None:
    layer = bnb.nn.Linear4bit(64, 4, quant_type="nf4")
    assert hasattr(layer, "support_avx512bf16_for_cpu")
    source = Path(str(bnb.nn.modules.__file__)).read_text()
    assert "self.support_avx512bf16_for_cpu" in source
    layer.to("cpu")
    layer.support_avx512bf16_for_cpu = True  # as on such a CPU
    keep_packed_on_cpu(layer)
    assert layer.support_avx512bf16_for_cpu is False
    packed = layer.weight.data.clone()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.eval()(torch.randn(2, 64, dtype=torch.bfloat16))
    assert torch.equal(layer.weight.data, packed)
