"""Draw the pictures of docs/how-it-works/rendering.md: one page of each script, Markdown, and several styles.

Needs the fonts of Debian's fonts-noto-core and fonts-noto-cjk, libfribidi0 and pyphen.

    python scripts/draw_rendering_sheets.py docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from deepsynth.data.preview import contact_sheet
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.types import Document

#: Article 1 of the Universal Declaration of Human Rights (the beginning, in some).
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح "
    "الإخاء.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם (סעיף 1). כולם חוננו בתבונה ובמצפון.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระ และเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "am": "የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
}
MARKDOWN = """# Tide tables

The *mean* range is **3.1 m**; see `tides.csv` for every hour.

- springs come after the full moon
- neaps come a week later
  1. first quarter
  2. last quarter

| Port | High | Mean range | Remark |
|:--|:-:|--:|---|
| Brest | 04:12 | 4.6 m | the reference for the whole coast, in local time |
| Dover | 09:55 | 10.2 m | add one hour in summer |

```
for hour in range(24):
    print(height(hour))
```

> Time and tide wait for no one.
"""


def page(text: str, seed: int = 0, language: str | None = None, **options: object) -> Image.Image:
    """Return the first page."""
    renderer = TextRenderer(**options)  # type: ignore[arg-type]
    return renderer(Document("page", text, language=language), np.random.default_rng(seed))[0].image


def save(image: Image.Image, path: Path) -> None:
    """Write few colors, as the repository keeps the pictures."""
    image.quantize(24, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path) -> None:
    """Write rendering_scripts.png, rendering_markdown.png and rendering_styles.png."""
    small = {"page_width_px": 300, "page_height_px": 190, "margin_px": 14, "font_size_px": 17.0}
    save(contact_sheet([page(t, 0, code, **small) for code, t in ARTICLE.items()]), folder / "rendering_scripts.png")
    options = {"page_width_px": 480, "page_height_px": 560, "margin_px": 24, "font_size_px": 15.0, "markup": "markdown"}
    save(page(MARKDOWN, **options), folder / "rendering_markdown.png")
    styles = {
        "page_width_px": 300,
        "page_height_px": 380,
        "margin_px": (10, 40),
        "font_size_px": (9.0, 18.0),
        "line_height": (1.15, 1.6),
        "columns": (1, 2),
        "column_gap_px": 14,
        "justify": 0.5,
        "fonts": ["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"],
        "text_color": ["black", "#202840", "#4a2c20"],
        "background_color": ["white", "#fbf6e9", "#eef2ee"],
        "hyphenate": 0.5,
    }
    text = "\n\n".join([ARTICLE["en"], ARTICLE["de"]] * 40)
    pages = TextRenderer(**styles)(Document("book", text), np.random.default_rng(1))  # type: ignore[arg-type]
    save(contact_sheet([page.image for page in pages[:8]]), folder / "rendering_styles.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
