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
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
from PIL import Image, ImageDraw

KINDS = {"page": 60, "stream": 15, "broken": 8, "large": 4, "leaves": 8, "slow": 1, "unknown model": 4}
EXPECTED = {"page": 200, "stream": 200, "broken": 422, "large": 413, "slow": 408, "unknown model": 404}
MAX_BYTES = 200_000


def page(side: int, seed: int) -> bytes:
    """Return a page of words as PNG."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side), "white")
    words = ["the", "lamp", "was", "lit", "and", "nobody", "came", "down", "from", "old", "gray", "house"]
    size = 12 if side < 512 else 20
    lines = [" ".join(rng.choices(words, k=4 if side < 512 else 12)) for _ in range(1 if side < 512 else 30)]
    ImageDraw.Draw(image).multiline_text((12, 12), "\n".join(lines), fill="black", font_size=size)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def start(options: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Return a running service and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "deepsynth", "serve", "--port", str(port), *options])
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            return process, port
        except OSError:
            if process.poll() is not None:
                sys.exit("the service did not start")
            time.sleep(0.5)


def memory_mib(process: subprocess.Popen[bytes]) -> list[float]:
    """Return the resident memory of the processes of a service: the first, then those that it started by age."""
    own = psutil.Process(process.pid)
    return [each.memory_info().rss / 2**20 for each in (own, *own.children(recursive=True))]


def chat(model: str, content: bytes, *, stream: bool, max_tokens: int | None = None) -> bytes:
    """Return the body of a chat completion."""
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": model, "messages": [{"role": "user", "content": parts}], "stream": stream}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return json.dumps({**asked, **options, **({"max_tokens": max_tokens} if max_tokens else {})}).encode()


async def send(port: int, body: bytes, length: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection on which a chat completion is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length)
    )
    writer.write(body)
    await writer.drain()
    return reader, writer


async def one(port: int, kind: str, model: str, pages: list[bytes], rng: random.Random) -> str:
    """Do one request, and return what came of it."""
    content = rng.choice(pages)
    bodies = {
        "broken": lambda: chat(model, content[: len(content) // 2], stream=False),
        "large": lambda: bytes(MAX_BYTES + 1),
        "unknown model": lambda: chat("none", content, stream=False),
        "slow": lambda: b"{",
    }
    body = bodies.get(kind, lambda: chat(model, content, stream=kind != "page"))()
    try:
        reader, writer = await send(port, body, 1000 if kind == "slow" else None)
        try:
            if kind == "leaves":
                await asyncio.sleep(rng.uniform(0, 1.0))
                return "left"
            answer = await asyncio.wait_for(reader.read(), 300)
        finally:
            writer.close()
    except TimeoutError:
        return "hangs"
    except OSError as error:
        return type(error).__name__
    status = answer[9:12].decode()
    whole = kind != "stream" or b"data: [DONE]" in answer
    return status if whole else "a stream that was cut"


async def stress(port: int, process: subprocess.Popen[bytes], arguments: argparse.Namespace) -> None:
    """Send the requests and print statuses and memory."""
    rng, pages = random.Random(0), [page(256, seed) for seed in range(32)]
    todo = iter(rng.choices(list(KINDS), list(KINDS.values()), k=arguments.requests))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    done, started = 0, time.monotonic()

    async def client() -> None:
        nonlocal done
        for kind in todo:
            found[kind, await one(port, kind, arguments.name, pages, rng)] += 1
            done += 1
            if done % max(arguments.requests // 10, 1) == 0:
                shown = " ".join(f"{size:,.0f}" for size in memory_mib(process))
                print(f"{done:>6} requests, {time.monotonic() - started:6.0f} s, MiB by process: {shown}", flush=True)

    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    for (kind, outcome), count in sorted(found.items()):
        wrong = "" if outcome == str(EXPECTED.get(kind, "left")) else "   UNEXPECTED"
        print(f"{kind:<14} {outcome:<10} {count:>6}{wrong}")
    await asyncio.sleep(2)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith(("deepsynth_requests_under_way", "deepsynth_rows", "deepsynth_pages_waiting")):
                print(line)


async def speed(port: int, arguments: argparse.Namespace, pages: list[bytes], clients: int) -> float:
    """Stream pages by so many clients and print tokens/s and the time to the first token."""
    todo, first, tokens = iter(pages), [], 0
    started = time.monotonic()

    async def client() -> None:
        nonlocal tokens
        for content in todo:
            begun = time.monotonic()
            body = chat(arguments.name, content, stream=True, max_tokens=arguments.tokens)
            reader, writer = await send(port, body)
            seen = False
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if not seen and chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    seen = True
                    first.append(time.monotonic() - begun)
                tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.monotonic() - started
    ranks = statistics.quantiles(first, n=100, method="inclusive") if len(first) > 1 else [first[0]] * 99
    print(
        f"service, {clients} clients: {tokens / seconds:,.0f} tokens/s, {1000 * seconds * clients / tokens:.2f} ms a "
        f"token and client, first token p50 {ranks[49]:.3f} s, p99 {ranks[98]:.3f} s "
        f"({tokens} tokens, {seconds:.1f} s)",
        flush=True,
    )
    return tokens / seconds


def decoder_alone(arguments: argparse.Namespace, pages: list[bytes], rows: int) -> float:
    """Generate the same pages without HTTP and print tokens/s; preparation of the pages is not counted."""
    import torch

    from deepsynth.serving.jobs import Job, Limits
    from deepsynth.serving.models import ModelPool, ModelSettings, ServedModel
    from deepsynth.serving.preparation import samples_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ServedModel(arguments.name, None, arguments.model, max_new_tokens=arguments.tokens)
    settings = ModelSettings((model,), slots=rows, weights=arguments.weights, stop_on_repetition=False)
    pool = ModelPool(settings, device)
    of = [list(samples_of(Job(model.name, (content,)), pool.processor, None, Limits()))[1] for content in pages]
    for measured in (False, True):  # once to compile and capture
        waiting, tokens, left = list(of), 0, len(of)
        started = time.monotonic()
        while left:
            decoder = pool.use(model.name)
            if waiting and len(decoder) < 2 * rows:
                now, waiting = waiting[:8], waiting[8:]
                pool.submit(model.name, now, [arguments.tokens] * len(now))
            ended = decoder.step()
            tokens += sum(found.tokens for _, found in ended)
            left -= len(ended)
        seconds = time.monotonic() - started
        if measured:
            print(
                f"decoder alone, {rows} rows: {tokens / seconds:,.0f} tokens/s, {1000 * seconds * rows / tokens:.2f} "
                f"ms a token and row ({tokens} tokens, {seconds:.1f} s)"
            )
    return tokens / seconds


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("stress", "speed"))
    parser.add_argument("--model", default="deepsynth/tiny")
    parser.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=188, help="of each text")
    parser.add_argument("--side", type=int, default=1024, help="of the pages of speed, pixels")
    arguments = parser.parse_args()
    arguments.name = Path(arguments.model).name
    options = ["--model_name", arguments.model, "--max_new_tokens", str(arguments.tokens)]
    if arguments.command == "stress":
        process, port = start([*options, "--max_bytes", str(MAX_BYTES), "--body_timeout_s", "2"])
        asyncio.run(stress(port, process, arguments))
    else:
        more = ["--slots", str(arguments.clients), "--weights", arguments.weights, "--stop_on_repetition", "false"]
        process, port = start([*options, *more])
        pages = [page(arguments.side, seed) for seed in range(arguments.requests)]
        asyncio.run(speed(port, arguments, pages[: 2 * arguments.clients], arguments.clients))  # to compile and capture
        service = asyncio.run(speed(port, arguments, pages, arguments.clients))
        single = asyncio.run(speed(port, arguments, pages[:4], 1))
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    print(f"exit code {process.wait(120)} after {time.monotonic() - begun:.1f} s", flush=True)
    if arguments.command == "speed":
        alone = decoder_alone(arguments, pages, arguments.clients)
        one_row = decoder_alone(arguments, pages[:4], 1)
        print(f"service / decoder: {service / alone:.3f}; ms a token, one client / one row: {one_row / single:.3f}")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
