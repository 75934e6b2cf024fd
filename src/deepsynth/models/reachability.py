"""Whether the Hub answers, found out once and within seconds.

Without a network huggingface_hub tries each file of a model for half a minute, one after the other, and a name that
does not resolve blocks longer than any time-out of a request.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from deepsynth.compat.huggingface_hub import http_errors
from deepsynth.errors import UserError

#: Longest wait for the answer, in seconds, with resolving the name and connecting.
DEADLINE_S = 8.0
_REQUEST_S = 5.0
_ATTEMPTS = 2
#: For how long an answer counts, in seconds: a model is loaded in several calls.
REMEMBERED_S = 60.0

_last: tuple[float, str | None] | None = None


def hub_options(model_name: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs beside a repository's name: nothing while the Hub answers.

    Args:
        model_name: a repository, ``owner/name``.

    Returns:
        ``{"local_files_only": True}`` when the Hub does not answer and the model was downloaded before.

    Raises:
        UserError: when the Hub does not answer and the model was never downloaded.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    reason = why_unreachable(model_name)
    if reason is None:
        return {}
    try:
        if isinstance(try_to_load_from_cache(model_name, "config.json"), str):
            return {"local_files_only": True}
    except HFValidationError as error:
        raise UserError(f"model_name {model_name!r} cannot be loaded: {error}") from None
    raise UserError(
        f"model_name is {model_name!r}, which was not downloaded before, and the Hub does not answer ({reason}); "
        "connect to a network, or give a folder with the model's files"
    )


def why_unreachable(model_name: str) -> str | None:
    """Return why the Hub cannot be reached, or ``None`` when it answers, even with an error.

    Args:
        model_name: repository that is asked for.
    """
    global _last
    if _last is None or time.monotonic() - _last[0] > REMEMBERED_S:
        found: list[str | None] = []
        # A thread, because resolving a name can be neither interrupted nor limited.
        thread = threading.Thread(target=_ask, args=(model_name, found), name="hub-answers", daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        _last = time.monotonic(), found[-1] if found else f"no reply within {DEADLINE_S:g} s"
    return _last[1]


def _ask(model_name: str, found: list[str | None]) -> None:
    """Ask for the repository, and append why that failed, or ``None``."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    errors: tuple[type[Exception], ...] = (*http_errors(), OSError)
    failures: list[str] = []
    while len(failures) < _ATTEMPTS:
        try:
            HfApi(library_name="deepsynth").model_info(model_name, timeout=_REQUEST_S)
        except (HfHubHTTPError, HFValidationError):
            break  # it is there; what loads the model explains its status, and waits out what passes
        except OfflineModeIsEnabled:
            found.append("HF_HUB_OFFLINE is set")
            return
        except ValueError:
            failures.append("its reply is not JSON: is this network's own page in between?")
        except errors as error:
            failures.append(" ".join(str(error).split())[:200] or type(error).__name__)
        else:
            break
    found.append(failures[-1] if len(failures) == _ATTEMPTS else None)
