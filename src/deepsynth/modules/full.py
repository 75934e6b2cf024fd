"""Training of all weights, without adapters: for small models, and for making one from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_folder
from deepsynth.models.engine.finite_check import check_state
from deepsynth.modules.adapter import adapter_record, adapter_state
from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.loading import load_base


class FullModule(DeepSynthModule):
    """Trains every weight of the model; the ``lora`` settings have no effect.

    With ``weights=random`` the model starts from scratch. The weights are kept in float32 unless ``dtype`` says
    otherwise: updates of a small learning rate vanish in bfloat16. A checkpoint holds all weights.

    Example:
        ::

            model:
              class_path: FullModule
              init_args: {model_name: deepsynth/tiny, warmup_steps: 100}
            trainer: {precision: bf16-mixed}
    """

    TRAINS_ADAPTERS = False

    def dtype_on(self, device_type: str) -> torch.dtype:
        """Return the dtype of the trained weights, which ``auto`` keeps in float32."""
        return torch.float32 if self.weights_dtype == "auto" else super().dtype_on(device_type)

    def load_model(self) -> Any:
        """Return the model with all weights trainable, in training mode.

        Raises:
            UserError: for a model that cannot be loaded, or an adapter to begin with, with the way out.
        """
        if self.adapter:
            raise UserError(
                f"model.adapter is {self.adapter!r}, but FullModule trains no adapter; merge it with "
                "deepsynth export and give the merged model as model.model_name"
            )
        model = load_base(self, None).requires_grad_(True)
        if hasattr(model, "freeze_vision"):
            model.freeze_vision(False)  # loaded vision is frozen; one weight of it is never used, and stays so
        return model.train()

    def save_adapter(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write a model folder: weights, configuration, processor and DeepSynth's own settings; there is no adapter."""
        trained = adapter_state(self) if state is None else state
        named = {name.removeprefix("model."): tensor for name, tensor in trained.items()}
        check_state(trained, str(folder))
        with atomic_folder(folder) as new:
            self.model.save_pretrained(new, state_dict={**self.model.state_dict(), **named})
            self.processor.save_pretrained(new)
            (new / "deepsynth.json").write_text(adapter_record(self), encoding="utf-8")
