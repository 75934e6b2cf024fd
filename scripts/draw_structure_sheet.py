"""Draw the templates and table styles: python scripts/draw_structure_sheet.py docs/images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from deepsynth.data.preview import contact_sheet
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.rendering.templates import Template
from deepsynth.data.typesetting.paragraphs import TableStyle
from deepsynth.types import Document

SIDES = {"page_width_px": 840, "page_height_px": 1088}
SEEDS = {"article": (1, 2), "report": (0, 4), "receipt": (0, 3), "form": (0, 1)}

PROSE = (
    "The gauge at the mouth of the river was read every hour, by hand until 1911 and by a float after that. "
    "Its record shows two tides a day whose heights differ by a third, and beneath them a slow rise. "
)
ARTICLE = f"""# Two centuries of tides at one gauge

**Abstract.** {PROSE}

## 1 Method

{PROSE}The height is written as a sum of tides,[^1]

$$h(t) = h_0 + \\sum_{{k=1}}^{{n}} a_k \\cos(\\omega_k t + \\varphi_k)$$

where $a_k$ is the amplitude and $\\omega_k$ the speed of a tide. {PROSE}

<table><caption>Table 1. The largest tides</caption>
<tr><th rowspan="2">Tide</th><th colspan="2">Amplitude, m</th></tr>
<tr><th align="right">1890</th><th align="right">1990</th></tr>
<tr><td>$M_2$</td><td align="right">1.92</td><td align="right">1.97</td></tr>
<tr><td>$S_2$</td><td align="right">0.63</td><td align="right">0.64</td></tr></table>

## 2 Results

{PROSE * 3}

1. The rise is $1.7 \\pm 0.2$ mm a year.
2. Storms add up to 2.1 m.

{PROSE * 4}

## 3 Discussion

{PROSE * 5}

[^1]: The speeds are those of Doodson's tables.
"""
REPORT = f"""# Report of the harbor board

## Summary

{PROSE * 2}

| Quarter | Ships | Cargo, t | Change |
|:--|--:|--:|--:|
| first | 312 | 81,400 | +2.1 % |
| second | 355 | 96,050 | +4.9 % |
| third | 371 | 99,310 | +0.4 % |
| fourth | 298 | 77,120 | −3.0 % |

## Works

- [x] two cranes of five are back in service
- [ ] the third waits for parts
- the quay is dredged to 9.5 m

{PROSE * 3}

> Members asked what a new crane would cost and were told that the answer depended on whom one asked.

{PROSE * 4}
"""
RECEIPT = """# North Quay Stores

14 Harbor Street

| Item | Qty | Price |
|:--|--:|--:|
| Rope, 12 mm | 20 m | 34.00 |
| Shackle, bow | 4 | 18.60 |
| Paint, gray | 2 | 41.90 |
| Lamp oil | 5 l | 12.25 |

<table><tr><td><b>Net</b></td><td align="right">106.75</td></tr>
<tr><td><b>Tax 7 %</b></td><td align="right">7.47</td></tr>
<tr><td><b>Total</b></td><td align="right"><b>114.22</b></td></tr></table>

Paid in cash, 28 March. Thank you.
"""
FORM = """# Application for a berth

## 1. Applicant

<table><tr><td colspan="2">Surname<br><b>Lindqvist</b></td><td>Born<br><b>1971-03-09</b></td></tr>
<tr><td>Street<br><b>14 Harbor Street</b></td><td>Town<br><b>Northquay</b></td><td>Phone<br><b>555 0142</b></td></tr>
</table>

## 2. Vessel

<table><tr><td>Name<br><b>Halcyon</b></td><td>Length<br><b>11.4 m</b></td><td>Draft<br><b>1.9 m</b></td></tr>
<tr><td colspan="3">Remarks<br><b>needs shore power, arrives after dark</b></td></tr></table>

- [x] guest berth
- [ ] yearly berth
- [ ] winter storage

## 3. Declaration

I have read the rules of the harbor and will keep to them.

<table><tr><td>Place and date<br><b>Northquay, 28 March</b></td><td>Signature<br><b>A. Lindqvist</b></td></tr></table>
"""
TEXTS = {"article": ARTICLE, "report": REPORT, "receipt": RECEIPT, "form": FORM}


def page(text: str, seed: int, **options: Any) -> Image.Image:
    """Return the first page of a text."""
    renderer = TextRenderer(markup="markdown", system_fonts=False, **options)
    return renderer(Document("sample", text), np.random.default_rng(seed))[0].image


def main(folder: Path) -> None:
    """Draw both pictures into the folder."""
    pages = [page(TEXTS[name], seed, templates=(name,), **SIDES) for name in get_args(Template) for seed in SEEDS[name]]
    small = [picture.resize((420, 544), Image.Resampling.LANCZOS) for picture in pages]
    contact_sheet(small).save(folder / "rendering_templates.webp", quality=60, method=6)
    table = (
        ARTICLE[ARTICLE.index("<table>") : ARTICLE.index("## 2")]
        + REPORT[REPORT.index("| Quarter") : REPORT.index("## W")]
    )
    tables = [
        page(table, 0, table_styles=(style,), page_width_px=400, page_height_px=360, margin_px=20, font_size_px=15.0)
        for style in get_args(TableStyle)
    ]
    contact_sheet(tables).save(folder / "rendering_tables.webp", quality=60, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
