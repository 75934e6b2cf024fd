"""Measure how fast DocumentSource gives pages of PDFs, beside pypdfium2 alone, and the memory of a long PDF.

python scripts/measure_documents.py --files 200 --pages 10 --long 2000
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pypdfium2

from deepsynth.data import DocumentSource
from deepsynth.data.scans import count_scan_pages, load_scan_pages

SIDE_PX = 1024
LINES, WORDS = 48, 12


def write_pdf(path: Path, pages: int, seed: int) -> None:
    """Write a born-digital PDF of A4 pages full of text in Helvetica."""
    rng = random.Random(seed)
    parts = ["%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(pages))
    parts.append(f"2 0 obj<</Type/Pages/Kids[{kids}]/Count {pages}>>endobj\n")
    parts.append("3 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n")
    for number in range(pages):
        lines = (" ".join("".join(rng.choices("etaoinshrdlu", k=6)) for _ in range(WORDS)) for _ in range(LINES))
        stream = "BT /F 11 Tf 14 TL 50 780 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        parts.append(
            f"{4 + 2 * number} 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>"
            f"/Contents {5 + 2 * number} 0 R>>endobj\n"
            f"{5 + 2 * number} 0 obj<</Length {len(stream)}>>stream\n{stream}\nendstream endobj\n"
        )
    body = "".join(parts).encode()
    start, offsets = 0, []
    for number in range(1, 4 + 2 * pages):
        start = body.index(f"\n{number} 0 obj".encode(), start) + 1
        offsets.append(start)
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(offsets) + 1
    end = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Root 1 0 R/Size {size}>>\nstartxref\n{len(body)}\n%%EOF"
    )
    path.write_bytes(body + end.encode())


def alone(folder: Path) -> Iterator[None]:
    """Rasterize every page with pypdfium2 and nothing else."""
    for path in sorted(folder.glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        for page in document:
            width, height = page.get_size()
            page.render(scale=SIDE_PX / max(width, height)).to_pil()
            page.close()
            yield
        document.close()


def alone_in_four_bytes(folder: Path) -> Iterator[None]:
    """Rasterize every page with pypdfium2 in the format that is its fastest."""
    for path in sorted(folder.glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        for page in document:
            width, height = page.get_size()
            page.render(scale=SIDE_PX / max(width, height), prefer_bgrx=True).to_pil().convert("RGB")
            page.close()
            yield
        document.close()


def through_source(folder: Path) -> Iterator[None]:
    """Give every page as prediction does: in order."""
    for document in DocumentSource(folder):
        for number in range(count_scan_pages(document)):
            load_scan_pages(document, number, max_pages=8, side_px=SIDE_PX)
            yield


def shuffled(folder: Path) -> Iterator[None]:
    """Give every page as training does: in a random order over all files."""
    keys = [(document, number) for document in DocumentSource(folder) for number in range(count_scan_pages(document))]
    random.Random(0).shuffle(keys)
    for document, number in keys:
        load_scan_pages(document, number, max_pages=8, side_px=SIDE_PX)
        yield


def rate(pages: Callable[[Path], Iterator[None]], folder: Path) -> float:
    """Return pages a second of processor time, which other programs on the machine do not change much."""
    begun = time.process_time()
    count = sum(1 for _ in pages(folder))
    return count / (time.process_time() - begun)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "many"
        folder.mkdir()
        for number in range(args.files):
            write_pdf(folder / f"{number:05d}.pdf", args.pages, number)
        rate(alone, folder)
        for repeat in range(args.repeats):
            figures = {
                way.__name__: rate(way, folder) for way in (alone, alone_in_four_bytes, through_source, shuffled)
            }
            shown = ", ".join(f"{name} {value:.1f} pages/s" for name, value in figures.items())
            print(f"{args.files} files of {args.pages} pages, run {repeat + 1}: {shown}")
        long = Path(temporary) / "long.pdf"
        write_pdf(long, args.long, 0)
        process = psutil.Process()
        begun = time.perf_counter()
        for number, _ in enumerate(through_source(long.parent / "long.pdf"), 1):
            if number == 1 or number % (args.long // 10) == 0:
                memory = process.memory_info().rss / 2**20
                print(f"page {number} of {args.long}: {time.perf_counter() - begun:.2f} s, {memory:.0f} MiB resident")


if __name__ == "__main__":
    main()
