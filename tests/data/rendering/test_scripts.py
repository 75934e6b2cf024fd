"""Every script: what is drawn, in which order, with which font, and whether an independent reader can read it."""

import itertools
import json
import os
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import features
from rapidfuzz.distance import Levenshtein

from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.text.cleaning import clean_text, fold_whitespace
from deepsynth.data.typesetting.pages import join_pages
from deepsynth.errors import UserError
from deepsynth.types import Document

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
#: Article 1 of the Universal Declaration of Human Rights.
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح "
    "الإخاء.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש "
    "ברעהו ברוח של אחוה.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा "
    "की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
}
BUNDLED = ("en", "ar", "he", "ru", "el")
TESSERACT = {"en": "eng", "ar": "ara", "hi": "hin", "zh": "chi_sim"}

needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="needs raqm: apt install libfribidi0")


def need_font(text):
    """Skip unless the system has a font for the text."""
    faces = FontLibrary().runs(text, "DejaVu Sans", False, False, "SC")
    if any(face is None for _, face in faces):
        pytest.skip("needs Noto fonts: apt install fonts-noto-core fonts-noto-cjk")


def render(text, language=None, **options):
    options = {"page_width_px": 512, "page_height_px": 400, "margin_px": 16, "font_size_px": 18.0} | options
    return TextRenderer(**options)(Document("d", text, language=language), np.random.default_rng(0))


def boxes(page):
    return {word.text: word.box for line in page.lines for word in line.words}


@needs_raqm
@pytest.mark.parametrize("language", ARTICLE)
def test_text_of_every_script_is_whole(language):
    text = "".join(ARTICLE[language].split()) if language in ("zh", "ja", "th") else ARTICLE[language]
    if language not in BUNDLED:
        need_font(re.sub(r"[\s.]", "", text))
    for size in (18.0, 40.0):
        pages = render(text, language, font_size_px=size)
        assert fold_whitespace(join_pages(pages)) == fold_whitespace(text)
        assert all(page.stats["characters_replaced"] == 0 for page in pages)


@pytest.mark.parametrize("language", BUNDLED)
def test_these_scripts_need_no_font_but_what_comes_with_the_package(language):
    if not features.check("raqm") and language in ("ar", "he"):
        pytest.skip("needs raqm: apt install libfribidi0")
    (page,) = render(ARTICLE[language], system_fonts=False)
    assert {line.font for line in page.lines} == {"DejaVu Sans"}


def test_chinese_is_broken_without_spaces():
    need_font(ARTICLE["zh"])
    (page,) = render(ARTICLE["zh"] * 3, "zh")
    assert len(page.lines) > 2
    assert page.text == ARTICLE["zh"] * 3
    assert all(line.box[2] > 512 - 16 - 2 * 18 for line in page.lines[:-1])
    assert not any(line.text[0] in "，。" for line in page.lines)


def test_the_language_chooses_the_form_of_chinese_characters():
    need_font("骨")
    if not any("CJK JP" in face.family for face in FontLibrary().system_faces):
        pytest.skip("needs Noto CJK: apt install fonts-noto-cjk")
    fonts = [render("骨", language)[0].lines[0].font for language in ("zh", "ja", "ko", "zh-TW")]
    assert [font.split()[-1] for font in fonts] == ["SC", "JP", "KR", "TC"]


@needs_raqm
def test_right_to_left_lines_run_from_the_right():
    (page,) = render("אחת שתיים שלוש", system_fonts=False)
    place = boxes(page)
    assert place["אחת"][0] > place["שתיים"][0] > place["שלוש"][0]
    assert place["אחת"][2] >= 512 - 16 - 3
    assert page.text == "אחת שתיים שלוש"


@needs_raqm
def test_mixed_lines_follow_the_bidirectional_algorithm():
    (page,) = render("one אחת שתיים 12 two", system_fonts=False)
    place = boxes(page)
    order = sorted(place, key=lambda word: place[word][0])
    assert order == ["one", "12", "שתיים", "אחת", "two"]
    (page,) = render("אחת one two שתיים", system_fonts=False)
    place = boxes(page)
    assert sorted(place, key=lambda word: place[word][0]) == ["שתיים", "one", "two", "אחת"]


@needs_raqm
def test_a_page_that_runs_from_the_right_has_its_first_column_there():
    text = "אחת שתיים שלוש ארבע חמש " * 12
    (page,) = render(text, columns=2, column_gap_px=20, page_height_px=300, system_fonts=False)
    first, last = page.lines[0].box, page.lines[-1].box
    assert first[0] > 260 > last[2]
    assert page.text.split() == text.split()


@needs_raqm
@pytest.mark.parametrize(("marker", "sign"), [("7.", "."), ("7)", "(")])
def test_the_dot_of_a_number_is_on_its_left_where_lines_run_from_the_right(marker, sign):
    def ink(text):
        (page,) = render(text, markup="markdown", system_fonts=False)
        box = page.lines[0].words[0].box
        return page.lines[0].words[0].text, page.image.crop(tuple(map(int, box)))

    text, drawn = ink(f"{marker} אחת")
    assert text == marker
    left = render(sign, system_fonts=False)[0]
    expected = left.image.crop(tuple(map(int, left.lines[0].words[0].box)))
    found = (
        drawn.crop((0, drawn.height - expected.height, expected.width, drawn.height))
        if sign == "."
        else drawn.crop((0, 0, *expected.size))
    )
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert ink(f"{marker} one")[1].tobytes() != drawn.tobytes()


@needs_raqm
def test_items_and_tables_follow_the_direction_of_their_text():
    text = "- [x] אחת\n- [ ] שתיים\n\n|שם|3|\n|-|-|\n|ארבע|12|\n"
    (page,) = render(text, markup="markdown", system_fonts=False)
    place = boxes(page)
    assert page.text.startswith("☑ אחת\n☐ שתיים")
    assert place["☑"][0] > place["אחת"][2]
    assert place["שם"][0] > place["3"][2]
    assert abs(place["3"][2] - place["12"][2]) <= 2
    assert place["ארבע"][2] > 470


@needs_raqm
def test_thai_and_lao_vowels_stay_with_their_consonant_at_the_end_of_a_line():
    for text, never_first, never_last in (
        ("เปลี่ยนน้ำใจและภาษาไทยนี้ๆ" * 6, "ะาำๆ", "เแไใโ"),
        ("ນ້ຳໃຈແລະພາສາລາວ" * 6, "ະາຳ", "ເແໄໃໂ"),
    ):
        need_font(text)
        for width in range(80, 130, 7):
            (page,) = render(text, page_width_px=width, page_height_px=3000)
            assert len(page.lines) > 5
            assert not any(line.text[0] in never_first for line in page.lines)
            assert not any(line.text[-1] in never_last for line in page.lines)
            assert page.text == text


@needs_raqm
def test_lines_of_hyphenated_thai_end_between_words():
    budoux = pytest.importorskip("budoux")
    text = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะ"
    need_font(text)
    words = set(itertools.accumulate(map(len, budoux.load_default_thai_parser().parse(text))))
    for width in (150, 200, 280):
        (page,) = render(text, language="th", hyphenate=1.0, page_width_px=width)
        assert page.text == text
        assert len(page.lines) > 1
        assert set(itertools.accumulate(len(line.text) for line in page.lines)) <= words


@needs_raqm
@pytest.mark.parametrize("hyphenate", [0.0, 1.0])
def test_lines_of_lao_begin_with_a_syllable(hyphenate):
    syllables = ["ມະ", "ນຸດ", "ທຸກ", "ຄົນ", "ເກີດ", "ມາ", "ມີ", "ກຽດ", "ສັກ", "ສີ", "ສິດ", "ທິ"]
    text = "".join(syllables)
    need_font(text)
    starts = set(itertools.accumulate(map(len, syllables)))
    for width in (140, 180, 260):
        (page,) = render(f"ລາວ {text}", language="lo", hyphenate=hyphenate, page_width_px=width)
        assert page.text == f"ລາວ {text}"
        assert len(page.lines) > 1
        assert (page.lines[0].text == "ລາວ") == (hyphenate == 0)
        ends = itertools.accumulate(len(line.text.removeprefix("ລາວ").lstrip()) for line in page.lines)
        assert set(ends) <= starts | {0}


@needs_raqm
def test_overrides_turn_letters_round():
    (turned,) = render("\u202eabc\u202c", system_fonts=False)
    (mirror,) = render("cba", system_fonts=False)
    assert turned.text == "\u202eabc\u202c"
    ink = [page.image.crop(tuple(map(int, page.lines[0].box))) for page in (turned, mirror)]
    assert ink[0].size == ink[1].size
    difference = np.asarray(ink[0], dtype=int) - np.asarray(ink[1], dtype=int)
    assert np.abs(difference).mean() < 10


@needs_raqm
def test_arabic_letters_join():
    joined = boxes(render("بيت", system_fonts=False)[0])["بيت"]
    apart = render("ب ي ت", system_fonts=False)[0].lines[0].words
    assert joined[2] - joined[0] < sum(word.box[2] - word.box[0] for word in apart)


@needs_raqm
def test_devanagari_consonants_form_conjuncts():
    need_font("क्ष")
    width = {text: (lambda box: box[2] - box[0])(render(text)[0].lines[0].box) for text in ("क्ष", "क\u094d\u200cष")}
    assert width["क्ष"] < width["क\u094d\u200cष"]


@needs_raqm
def test_marks_stand_on_their_letter():
    base = boxes(render("x", system_fonts=False)[0])["x"]
    (page,) = render("x\u0304", system_fonts=False)
    box = page.lines[0].box
    assert box[1] < base[1]
    assert box[2] - box[0] <= base[2] - base[0] + 3


def read(image, path, language):
    """Return what tesseract reads, or skip."""
    program = shutil.which("tesseract")
    languages = program and subprocess.run([program, "--list-langs"], capture_output=True, text=True).stdout.split()
    if not languages or language not in languages:
        pytest.skip(f"needs an OCR program: apt install tesseract-ocr tesseract-ocr-{language.replace('_', '-')}")
    image.save(path)
    command = [program, str(path), "-", "-l", language, "--psm", "6"]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def error_rate(language, pages, path):
    """Return the corpus CER of tesseract on clean pages, after NFKC and, for Chinese, without spaces."""

    def normal(text):
        text = re.sub("[\u200c-\u200f\u0640]", "", unicodedata.normalize("NFKC", text))
        return "".join(text.split()) if language == "zh" else " ".join(text.split())

    pairs = [(normal(page.text), normal(read(page.image, path, TESSERACT[language]))) for page in pages]
    return sum(Levenshtein.distance(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)


@needs_raqm
@pytest.mark.parametrize(("language", "limit"), [("en", 0.01), ("ar", 0.05), ("hi", 0.05), ("zh", 0.05)])
def test_an_independent_program_reads_the_pages(language, limit, tmp_path):
    need_font("".join(ARTICLE[language].split()))
    pages = render(ARTICLE[language] * 2, language, page_width_px=800, font_size_px=28.0, line_height=1.5)
    assert error_rate(language, pages, tmp_path / "page.png") <= limit


def documents(name):
    """Yield (id, text, language) of a file of the shared data."""
    path = SHARED / name
    if path.suffix == ".txt":
        yield path.stem, path.read_text(encoding="utf-8"), "en"
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["id"], row["document"], row["language"]


FILES = sorted(str(path.relative_to(SHARED)) for path in (*SHARED.glob("multi/*.jsonl"), *SHARED.glob("prose/*.txt")))


@pytest.mark.slow
@needs_raqm
@pytest.mark.skipif(not FILES, reason="needs the shared data")
@pytest.mark.parametrize("name", FILES)
def test_no_text_of_a_real_corpus_is_lost(name):
    """Whole corpora: equal with white space folded; where an emoji has no font, equal but for the counted ones."""
    need_font("漢字हिन्दी")
    strict = TextRenderer(font_size_px=18.0)
    lenient = TextRenderer(font_size_px=18.0, on_missing_glyph="replace")
    for name_of, text, language in documents(name):
        document = Document(name_of, text, language=language)
        source = fold_whitespace(clean_text(text)[0])
        try:
            pages = strict(document, np.random.default_rng(0))
        except UserError:
            pages = lenient(document, np.random.default_rng(0))
            shown = fold_whitespace(join_pages(pages))
            missing = {a for a, b in zip(source, shown, strict=True) if a != b}
            assert missing
            assert all(unicodedata.category(character) in ("So", "Cn") for character in missing), missing
            assert sum(page.stats["characters_replaced"] for page in pages) == sum(map(source.count, missing))
        else:
            assert fold_whitespace(join_pages(pages)) == source, name_of


@pytest.mark.slow
@needs_raqm
@pytest.mark.skipif(not FILES, reason="needs the shared data")
@pytest.mark.parametrize(("language", "limit"), [("en", 0.01), ("ar", 0.05), ("hi", 0.05), ("zh", 0.05)])
def test_an_independent_program_reads_real_text(language, limit, tmp_path):
    """About 8,000 characters of prose in one script: the programs' models read one script at a time."""
    if language == "en":
        text = next(documents("prose/jane-austen_pride-and-prejudice.txt"))[1][3000:12000]
    else:
        lines = [line.strip() for _, text, _ in documents(f"multi/text_{language}.jsonl") for line in text.split("\n")]
        lines = [line for line in lines if len(line) > 60 and not re.search(r"[A-Za-z@#*_]", line)]
        text = "\n".join(list(dict.fromkeys(lines))[:40])
    pages = render(text, language, page_width_px=1024, page_height_px=1024, font_size_px=28.0, line_height=1.5)
    assert error_rate(language, pages, tmp_path / "page.png") <= limit
