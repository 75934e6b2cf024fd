"""The models: what is numerically DeepSeek-OCR, how many tokens an image takes, and what may be adapted.

Importing this package makes transformers' Auto classes know DeepSeek-OCR (they bring DeepSeek-OCR-2 themselves): at
once when transformers is there already, otherwise as soon as it is imported. So whoever only counts image tokens does
not wait for torch and transformers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class RegisterWithTransformers(MetaPathFinder):
    """Register DeepSeek-OCR right after the first ``import transformers``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders have for transformers, with the registration after its execution."""
        if fullname != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Make transformers' Auto classes know DeepSeek-OCR; may be called again."""
    from deepsynth.models.deepseek_ocr.registration import register as register_classes

    register_classes()


if "transformers" in sys.modules:
    register()
elif not any(isinstance(finder, RegisterWithTransformers) for finder in sys.meta_path):
    sys.meta_path.insert(0, RegisterWithTransformers())
