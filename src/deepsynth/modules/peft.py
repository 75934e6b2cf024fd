"""The PEFT-standard backend: transformers loads the model, peft adapts it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.models.lora import lora_config
from deepsynth.models.names import load_pretrained
from deepsynth.models.supported import family_of
from deepsynth.modules.base import DeepSynthModule


class PeftModule(DeepSynthModule):
    """Loads through transformers' AutoModelForImageTextToText and adapts with peft."""

    def load_model(self) -> Any:
        """Return a ``PeftModel`` on this process's device, the base frozen in its dtype, the adapters in float32.

        Raises:
            ValueError: for a model that cannot be loaded, or a package that is missing, with the way out.
        """
        from peft import get_peft_model

        base = self._load_base()
        base.requires_grad_(False)
        if self.hparams["gradient_checkpointing"]:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        h = self.hparams
        init = h["lora_init"]
        config = lora_config(
            base,
            self.scope,
            rank=h["lora_rank"],
            alpha=h["lora_alpha"] or 2 * h["lora_rank"],
            dropout=h["lora_dropout"],
            rslora=h["rslora"],
            dora=h["dora"],
            init=True if init == "default" else init,
            base_model_name=h["model_name"],
        )
        base.name_or_path = h["model_name"]  # peft copies it into the adapter: a name, not a path of this machine
        model = get_peft_model(base, config)
        # from_pretrained leaves eval mode, in which gradient checkpointing would be skipped in silence.
        return model.train()

    def _load_base(self) -> Any:
        from transformers import AutoConfig, AutoModelForImageTextToText

        name = self.hparams["model_name"]
        config = load_pretrained(AutoConfig, name)
        family_of(config)  # refuses other architectures, with the list
        kwargs: dict[str, Any] = {
            "dtype": self.resolved_dtype,
            "attn_implementation": self._attention(config),
        }
        if self.hparams["experts_implementation"]:
            kwargs["experts_implementation"] = self.hparams["experts_implementation"]
        if self.hparams["weights"] == "random":
            with torch.device(self.device):
                model = AutoModelForImageTextToText.from_config(config, **kwargs)
            rank_zero_info(f"{name}: random weights (model.weights=random)")
            return model
        return load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs).to(self.device)

    def _attention(self, config: Any) -> str | dict[str, str]:
        """Return the implementation by part of the model: flash attention is for the decoder alone."""
        chosen: str = self.hparams["attn_implementation"]
        if chosen != "flash_attention_2":
            return chosen
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise ValueError(
                "model.attn_implementation is flash_attention_2, but flash-attn is not installed or there is no GPU; "
                "pip install flash-attn, or use model.attn_implementation=sdpa"
            )
        return {"": "sdpa", "vision_config": "sdpa", "text_config": "flash_attention_2"}
