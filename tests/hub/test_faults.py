"""Every fault at every route that a push uses: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import PushWorker, resume
from tests.helpers.hub_server import HubProcess
from tests.helpers.pushes import QUICK, TOKEN, WarmAttempts, add_snapshot, contents, on_hub, titles

#: Cases under way at once, each against a Hub of its own: most of a case is waiting.
AT_ONCE = 8
TIMEOUT_S = 2.0

BOTH = [
    "/revision/",
    "repos/create",
    "branch/",
    "validate-yaml",
    "/preupload/",
    "/commit/",
    "/commits/",
    "/refs",
    "/tag/",
]
ROUTES = {
    "xet": [*BOTH, "xet-write-token", "__cas__/v1/xorbs", "__cas__/v2/shards"],
    "lfs": [*BOTH, "objects/batch", "__lfs__/upload", "__lfs__/verify", "__lfs__/part", "__lfs__/complete"],
}
HTML = {"body": "<html>sorry</html>"}
REFUSED = (400, 401, 403, 404)
FAULTS: list[dict[str, Any]] = [
    *({"status": s, "when": "before"} for s in (*REFUSED, 408, 409, 412, 500, 502, 504)),
    *({"status": s, "when": "after"} for s in (*REFUSED, 408, 409, 412, 500, 502, 504)),
    *({"status": 429, "retry_after": 1, "when": w} for w in ("before", "after")),
    {"status": 503, "retry_after": 7200},
    *({"status": s, "when": "before", **HTML} for s in (401, 429, 503)),
    {"status": 503, "when": "after", **HTML},
    *({"status": 200, "when": w, **HTML} for w in ("before", "after")),
    {"status": 429, "ratelimit_reset": 1},
    {"status": 500, "drain": False},
    *({"action": "drop", "when": w} for w in ("before", "mid_request", "mid_response", "after")),
    *({"action": "hang", "seconds": 4, "when": w} for w in ("before", "after")),
    {"action": "hang", "seconds": 4, "then": "drop"},
    {"action": "hang", "seconds": 4, "then": "status", "status": 503},
    {"action": "throttle", "bytes_per_sec": 400_000},
]
Case = tuple[str, str, dict[str, Any]]
EVERY: list[Case] = [(mode, route, fault) for mode in ROUTES for route in ROUTES[mode] for fault in FAULTS]


def name_of(case: Case) -> str:
    mode, route, fault = case
    return f"{mode}-{route.strip('/').replace('/', '.')}-" + "-".join(str(v)[:9] for v in fault.values())


def kind_of(fault: dict[str, Any]) -> str:
    return fault.get("action", "status")


def pairs_of(case: Case) -> set[tuple[Any, ...]]:
    """The pairs of before or after the effect, way of uploading, and kind or route; and the very fault, by itself.

    Each kind at each route is in the slow test, which has everything.
    """
    mode, route, fault = case
    effect = "after" if fault.get("when") in ("after", "mid_response") else "before"
    values = (("kind", kind_of(fault)), ("route", route), ("effect", effect), ("mode", mode))
    pairs = {pair for pair in itertools.combinations(values, 2) if pair != values[:2]}
    return {*pairs, ("fault", FAULTS.index(fault))}


def pairwise(cases: list[Case]) -> list[Case]:
    """Return few cases that have every pair that is among all of them: the one with most new pairs, again and again."""
    todo = set().union(*map(pairs_of, cases))
    chosen = []
    while todo:
        best = max(cases, key=lambda case: len(pairs_of(case) & todo))
        todo -= pairs_of(best)
        chosen.append(best)
    return chosen


SOME = pairwise(EVERY)


@pytest.fixture(scope="module")
def hubs(tmp_path_factory) -> Iterator[queue.SimpleQueue[HubProcess]]:
    """Hubs that no case is using."""
    options = ["--storage-host", "localhost", "--multipart-bytes", "300000", "--user", f"alice:{TOKEN}:write"]
    free: queue.SimpleQueue[HubProcess] = queue.SimpleQueue()
    started = []
    try:
        for _ in range(AT_ONCE):
            folder = tmp_path_factory.mktemp("hub")
            started.append(HubProcess(folder / "state", 0, *options))
            started[-1].home = folder / "home"
            free.put(started[-1])
        yield free
        assert [hub.leaks() for hub in started] == [[]] * AT_ONCE
    finally:
        for hub in started:
            hub.stop()


numbers = itertools.count()
environments: dict[str, dict[str, str]] = {}


@pytest.fixture(autouse=True)
def warm(monkeypatch):
    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", WarmAttempts(environments.__getitem__))


def survive(hub: HubProcess, folder: Path, case: Case) -> None:
    """Whatever fails once: the snapshot arrives, once; at the latest when it is sent again by hand."""
    mode, route, fault = case
    target = Target(f"alice/run{next(numbers)}", "trained" if route == "branch/" else "main")
    environments[target.repo_id] = hub.env(hub.home, token=TOKEN, xet=None if mode == "xet" else False, redirect=False)
    spool = Spool.of_run(folder, target)
    size = 700_000 if route in ("__lfs__/part", "__lfs__/complete") else 200_000  # in several parts, or in one
    snapshot = add_snapshot(spool, target, tag="step-1", size=size)
    files = contents(snapshot)
    if route == "/commits/":  # only a repeated attempt looks there
        snapshot.mark_attempted()
    hub.fault(path=route, **fault)
    PushWorker(spool, request_timeout_s=TIMEOUT_S, backoff=QUICK).close(120)
    assert hub.faults()[0]["hits"] == 1, "the fault was met"
    if not spool.is_empty():
        assert fault.get("status") in REFUSED or fault.get("retry_after") == 7200, "only a person can mend it"
        hub.clear_faults()
        resume(folder, 120, backoff=QUICK)
    assert spool.is_empty()
    hub.wait_idle(quiet=0.1)  # a hanging request may still take effect
    assert titles(hub, target) == ["step 1"]
    assert on_hub(hub, target) == files
    assert on_hub(hub, target, "step-1") == files
    assert hub.repo(target.repo_id).meta["private"]


def survive_all(hubs: queue.SimpleQueue[HubProcess], folder: Path, cases: list[Case]) -> None:
    def run(case: Case) -> str | None:
        hub = hubs.get()
        try:
            hub.clear_faults()
            survive(hub, folder / name_of(case), case)
        except Exception as error:  # noqa: BLE001 - of one case among many
            return f"{name_of(case)}: {type(error).__name__}: {error}"
        finally:
            hub.clear_faults()
            hubs.put(hub)
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failed = [line for line in pool.map(run, cases) if line is not None]
    assert not failed, "\n".join(failed)


def groups(cases: list[Case], size: int) -> list[Any]:
    """Return the cases in portions that pytest-xdist can spread."""
    parts = [cases[i : i + size] for i in range(0, len(cases), size)]
    return [pytest.param(part, id=f"{name_of(part[0])}-and-{len(part) - 1}-more") for part in parts]


def test_the_short_list_has_every_pair_and_every_fault():
    assert set().union(*map(pairs_of, SOME)) == set().union(*map(pairs_of, EVERY))
    assert len(SOME) < len(EVERY) / 10


@pytest.mark.parametrize("cases", groups(SOME, 24))
def test_a_fault_neither_loses_nor_doubles_a_push(hubs, tmp_path, cases):
    survive_all(hubs, tmp_path, cases)


@pytest.mark.slow
@pytest.mark.parametrize("cases", groups(EVERY, len(FAULTS)))
def test_every_fault_at_every_route(hubs, tmp_path, cases):
    survive_all(hubs, tmp_path, cases)
