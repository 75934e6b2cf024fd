"""Load ``deepsynth serve`` with many clients, some of which misbehave, and measure what it does.

    python scripts/stress_service.py stress --requests 10000             # statuses, memory, what is left behind
    python scripts/stress_service.py speed --model NAME --weights random --clients 64 --requests 256

``stress`` sends whole pages, streams, broken images, bodies that are too large, clients that leave before the answer
and clients that never end their body, and checks each status. ``speed`` streams the same pages through the service and
through the decoder alone, one after the other on one device.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from deepsynth.serving.models import ModelPool
    from deepsynth.types import Sample

KINDS = {
    "page": 53, "stream": 15, "leaves": 8, "broken": 6, "PDF": 5, "large": 4, "unknown model": 4, "leaves a stream": 2,
    "broken PDF": 2, "slow": 1,
}  # fmt: skip
EXPECTED = {
    "page": 200, "stream": 200, "PDF": 200, "broken": 422, "broken PDF": 422, "large": 413, "slow": 408,
    "unknown model": 404,
}  # fmt: skip
MAX_BYTES = 200_000
#: Of an answer: long, so that a busy machine alone does not end one.
TIMEOUT_S = 1200


def page(side: int, seed: int, form: str = "PNG") -> bytes:
    """Return a page of words as a file."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side), "white")
    words = ["the", "lamp", "was", "lit", "and", "nobody", "came", "down", "from", "old", "gray", "house"]
    size = 12 if side < 512 else 20
    lines = [" ".join(rng.choices(words, k=4 if side < 512 else 12)) for _ in range(1 if side < 512 else 30)]
    ImageDraw.Draw(image).multiline_text((12, 12), "\n".join(lines), fill="black", font_size=size)
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def start(options: list[str]) -> tuple[subprocess.Popen[bytes], int, str]:
    """Return a running service, its port and the folder of its temporary files."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = tempfile.mkdtemp(prefix="deepsynth-stress-")
    process = subprocess.Popen(
        [sys.executable, "-m", "deepsynth", "serve", "--port", str(port), *options],
        env={**os.environ, "TMPDIR": temporary},
    )
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            return process, port, temporary
        except OSError:
            if process.poll() is not None:
                sys.exit("the service did not start")
            time.sleep(0.5)


def held(process: subprocess.Popen[bytes]) -> str:
    """Return what the processes of a service hold, the first one's first: resident MiB/open files/threads."""
    own = psutil.Process(process.pid)
    return "  ".join(
        f"{each.memory_info().rss / 2**20:.0f}/{each.num_fds()}/{each.num_threads()}"
        for each in (own, *own.children(recursive=True))
    )


def chat(model: str, content: bytes, *, stream: bool, max_tokens: int | None = None) -> bytes:
    """Return the body of a chat completion."""
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": model, "messages": [{"role": "user", "content": parts}], "stream": stream}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return json.dumps({**asked, **options, **({"max_tokens": max_tokens} if max_tokens else {})}).encode()


async def send(
    port: int, body: bytes, length: int | None = None, pdf: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection on which a chat completion, or the text of a PDF, is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path, kind = (b"/v1/ocr", b"application/pdf") if pdf else (b"/v1/chat/completions", b"application/json")
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        % (path, kind, len(body) if length is None else length)
    )
    writer.write(body)
    await writer.drain()
    return reader, writer


async def one(port: int, kind: str, model: str, pages: list[bytes], pdfs: list[bytes], rng: random.Random) -> str:
    """Do one request, and return what came of it."""
    content, pdf = rng.choice(pages), rng.choice(pdfs)
    bodies = {
        "broken": lambda: chat(model, content[: len(content) // 2], stream=False),
        "large": lambda: bytes(MAX_BYTES + 1),
        "unknown model": lambda: chat("none", content, stream=False),
        "slow": lambda: b"{",
        "PDF": lambda: pdf,
        "broken PDF": lambda: pdf[: len(pdf) // 3],
        "leaves": lambda: chat(model, content, stream=False),
    }
    body = bodies.get(kind, lambda: chat(model, content, stream=kind != "page"))()
    try:
        reader, writer = await send(port, body, 1000 if kind == "slow" else None, pdf="PDF" in kind)
        try:
            if kind.startswith("leaves"):
                if kind == "leaves a stream":
                    await reader.readuntil(b"data: ")
                await asyncio.sleep(rng.uniform(0, 1.0))
                return "left"
            answer = await asyncio.wait_for(reader.read(), 2 * TIMEOUT_S)
        finally:
            writer.close()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        return type(error).__name__
    status = answer[9:12].decode()
    whole = kind != "stream" or b"data: [DONE]" in answer
    return status if whole else "a stream that was cut"


async def stress(port: int, process: subprocess.Popen[bytes], arguments: argparse.Namespace, temporary: str) -> None:
    """Send the requests and print statuses, memory and what is left behind."""
    rng, pages = random.Random(0), [page(256, seed) for seed in range(32)]
    pdfs = [page(256, seed, "PDF") for seed in range(8)]
    todo = iter(rng.choices(list(KINDS), list(KINDS.values()), k=arguments.requests))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    done, started = 0, time.monotonic()

    async def client() -> None:
        nonlocal done
        for kind in todo:
            found[kind, await one(port, kind, arguments.name, pages, pdfs, rng)] += 1
            done += 1
            if done % max(arguments.requests // 10, 1) == 0:
                print(f"{done:>6} requests, {time.monotonic() - started:6.0f} s: {held(process)}", flush=True)

    print(f"resident MiB/open files/threads by process, at first: {held(process)}", flush=True)
    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    for (kind, outcome), count in sorted(found.items()):
        wrong = "" if outcome == str(EXPECTED.get(kind, "left")) else "   UNEXPECTED"
        print(f"{kind:<14} {outcome:<10} {count:>6}{wrong}")
    await asyncio.sleep(5)
    print(f"5 s later: {held(process)}; temporary files: {os.listdir(temporary)}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith(("deepsynth_requests_under_way", "deepsynth_rows", "deepsynth_pages_waiting")):
                print(line)


@dataclass(frozen=True)
class Rate:
    """What a number of pages took.

    Attributes:
        tokens: of all texts.
        seconds: from the first request to the last token.
        first_s: from each request to its first tokens.
    """

    tokens: int
    seconds: float
    first_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all texts a second."""
        return self.tokens / self.seconds

    def seconds_a_text(self, new_tokens: int) -> float:
        """Seconds of one row for a text of so many tokens."""
        return self.seconds / self.tokens * new_tokens

    def row(self, where: str, rows: int, new_tokens: int) -> str:
        """Return a row of the table."""
        per_token = 1000 * self.seconds * rows / self.tokens
        first = ""
        if len(self.first_s) > 1:
            ranks = statistics.quantiles(self.first_s, n=100, method="inclusive")
            first = f"{1000 * ranks[49]:,.0f} | {1000 * ranks[98]:,.0f}"
        cells = [where, rows, new_tokens, f"{self.tokens_per_s:,.0f}", f"{per_token:.3f}", first or " | "]
        return f"| {' | '.join(map(str, cells))} |"


def with_whole_vocabulary(model: str) -> str:
    """Return a folder with a model's architecture and a token for every id, as random weights write any of them."""
    from deepsynth.models.registry import resolve_model_name

    folder = Path(tempfile.mkdtemp(prefix="deepsynth-speed-")) / Path(model).name
    shutil.copytree(resolve_model_name(model), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    size = (config.get("text_config") or config)["vocab_size"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    taken = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    vocabulary |= {f" w{index}": index for index in range(size) if index not in taken}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


async def through_the_service(port: int, name: str, pages: list[bytes], clients: int, new_tokens: int) -> Rate:
    """Stream pages by so many clients, each of which asks again when it has its text."""
    todo, tokens, short = iter(pages), 0, 0
    first: list[float] = []
    started = time.monotonic()

    async def client() -> None:
        nonlocal tokens, short
        for content in todo:
            begun = time.monotonic()
            reader, writer = await send(port, chat(name, content, stream=True, max_tokens=new_tokens))
            seen, written = False, 0
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                if not seen and b'"content": ""' not in line:
                    seen = True
                    first.append(time.monotonic() - begun)
                if b'"usage"' in line:
                    written = json.loads(line[6:])["usage"]["completion_tokens"]
            writer.close()
            if not written:
                sys.exit("a request had no answer; the lines above say why")
            tokens += written
            short += written < new_tokens

    await asyncio.gather(*(client() for _ in range(clients)))
    if short:
        print(f"{short} of {len(pages)} texts ended before {new_tokens} tokens: rates hold less work", flush=True)
    return Rate(tokens, time.monotonic() - started, first)


def by_the_decoder(pool: ModelPool, name: str, samples: list[Sample], rows: int, new_tokens: int) -> Rate:
    """Generate from prepared pages with the decoder alone, which is fed as the service feeds it."""
    decoder, waiting, tokens = pool.use(name), list(samples), 0
    started = time.monotonic()
    while waiting or len(decoder):
        room = min(2 * rows - len(decoder) if rows > 1 else 1 - len(decoder), 8)
        if waiting and room > 0:
            now, waiting = waiting[:room], waiting[room:]
            pool.submit(name, now, [new_tokens] * len(now))
        tokens += sum(found.tokens for _, found in decoder.step())
    return Rate(tokens, time.monotonic() - started)


def decoder_alone(arguments: argparse.Namespace, pages: list[bytes]) -> dict[tuple[int, int], Rate]:
    """Return the rates of the decoder without HTTP by (rows, new tokens); preparation of the pages is not counted."""
    import torch

    from deepsynth.serving.jobs import Job, Limits
    from deepsynth.serving.models import ModelPool, ModelSettings, ServedModel
    from deepsynth.serving.preparation import Preparation

    name, most = arguments.name, max(arguments.tokens)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    model = ServedModel(name, None, arguments.model, max_new_tokens=most)
    pool = ModelPool(
        ModelSettings((model,), slots=arguments.clients, weights=arguments.weights, stop_on_repetition=False), device
    )

    prepare = Preparation(pool.processor, Limits())

    def prepared(contents: list[bytes]) -> list[Any]:
        return [prepare(Job(name, (each,)), None, 0).sample for each in contents]

    found = {}
    for rows, count in ((arguments.clients, len(pages)), (1, arguments.single)):
        for new_tokens in sorted(arguments.tokens, reverse=True):  # to compile and capture
            by_the_decoder(pool, name, prepared(pages[: 2 * rows]), rows, new_tokens)
        for new_tokens in arguments.tokens:
            found[rows, new_tokens] = by_the_decoder(pool, name, prepared(pages[:count]), rows, new_tokens)
    return found


async def service_speed(port: int, arguments: argparse.Namespace, pages: list[bytes]) -> dict[tuple[int, int], Rate]:
    """Return the rates of the service by (clients, new tokens)."""
    found = {}
    for clients, count in ((arguments.clients, len(pages)), (1, arguments.single)):
        for new_tokens in sorted(arguments.tokens, reverse=True):  # to compile and capture
            await through_the_service(port, arguments.name, pages[: 2 * clients], clients, new_tokens)
        for new_tokens in arguments.tokens:
            found[clients, new_tokens] = await through_the_service(
                port, arguments.name, pages[:count], clients, new_tokens
            )
    return found


def print_speed(service: dict[tuple[int, int], Rate], alone: dict[tuple[int, int], Rate], clients: int) -> None:
    """Print both, and how the service compares with the decoder."""
    print("| | rows | new tokens | tokens/s | ms a token and row | first token p50, ms | p99, ms |")
    print("|---|---|---|---|---|---|---|")
    for (rows, new_tokens), rate in alone.items():
        print(rate.row("decoder alone", rows, new_tokens))
        print(service[rows, new_tokens].row("service", rows, new_tokens))
    for new_tokens in sorted({tokens for _, tokens in alone}):
        ratio = service[clients, new_tokens].tokens_per_s / alone[clients, new_tokens].tokens_per_s
        one = alone[1, new_tokens].tokens_per_s / service[1, new_tokens].tokens_per_s
        print(
            f"{new_tokens} new tokens: service / decoder at {clients}: {ratio:.3f} (wanted: at least 0.9); ms a token "
            f"of one client / decoder's at one row, first token included: {one:.3f} (wanted: at most 1.1)"
        )
    short, long = min(t for _, t in alone), max(t for _, t in alone)
    if short < long:
        ms = [
            1000 * (of[1, long].seconds_a_text(long) - of[1, short].seconds_a_text(short)) / (long - short)
            for of in (service, alone)
        ]
        print(
            f"ms of each further token, from {short} to {long}: one client {ms[0]:.3f}, decoder at one row "
            f"{ms[1]:.3f}, ratio {ms[0] / ms[1]:.3f}"
        )


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("stress", "speed"))
    parser.add_argument("--model", default="deepsynth/tiny")
    parser.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[188, 600], help="of each text; stress takes the first"
    )
    parser.add_argument("--single", type=int, default=8, help="pages of the one client of speed")
    parser.add_argument("--side", type=int, default=1024, help="of the pages of speed, pixels")
    arguments = parser.parse_args()
    arguments.name = Path(arguments.model).name
    speed = arguments.command == "speed"
    if speed and arguments.weights == "random":
        arguments.model = with_whole_vocabulary(arguments.model)
    most = max(arguments.tokens) if speed else arguments.tokens[0]
    options = ["--model_name", arguments.model, "--max_new_tokens", str(most)]
    if speed:
        options += ["--slots", str(arguments.clients), "--weights", arguments.weights, "--stop_on_repetition", "false"]
        options += ["--max_requests", str(4 * arguments.clients)]
    else:
        options += ["--max_bytes", str(MAX_BYTES), "--body_timeout_s", "10", "--timeout_s", str(TIMEOUT_S)]
    began = time.monotonic()
    process, port, temporary = start(options)
    print(f"the service is ready after {time.monotonic() - began:.0f} s", flush=True)
    try:
        if speed:
            pages = [page(arguments.side, seed) for seed in range(arguments.requests)]
            service = asyncio.run(service_speed(port, arguments, pages))
        else:
            asyncio.run(stress(port, process, arguments, temporary))
    finally:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        print(f"exit code {process.wait(120)} after {time.monotonic() - begun:.1f} s", flush=True)
    if speed:
        print_speed(service, decoder_alone(arguments, pages), arguments.clients)
        print(f"{time.monotonic() - began:.0f} s in all", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
