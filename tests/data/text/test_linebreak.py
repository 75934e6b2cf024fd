import unicodedata

import pytest
import regex

from deepsynth.data.text.linebreak import breakable_parts, gap_width, grapheme_clusters, segments

SPACE = 5.0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("word", ["word"]),
        ("well-known", ["well-", "known"]),
        ("--option", ["--option"]),
        ("-5", ["-5"]),
        ("10–20", ["10–20"]),
        ("then—until", ["then—", "until"]),
        ("10—20", ["10—", "20"]),
        ("10—\u030120", ["10—\u0301", "20"]),
        ("http://a.b/c", ["http://", "a.b/", "c"]),
        ("no\u00a0break-here", ["no\u00a0break-", "here"]),
        ("soft\u00adhyphen", ["soft\u00ad", "hyphen"]),
        ("zero\u200bwidth", ["zero\u200b", "width"]),
        ("“Don’t!”", ["“Don’t!”"]),
        ("他说：“你好。”（走）了", ["他", "说：", "“你", "好。”", "（走）", "了"]),
        ("シュー、テスト", ["シュー、", "テ", "ス", "ト"]),
        ("中文English中", ["中", "文", "English", "中"]),
        ("二十—五", ["二", "十—", "五"]),
        ("東京-大阪", ["東", "京-", "大", "阪"]),
        ("東京—大阪", ["東", "京—", "大", "阪"]),
        ("ｱﾙﾌｧﾍﾞｯﾄ", ["ｱ", "ﾙ", "ﾌｧ", "ﾍﾞｯ", "ﾄ"]),
        ("气温25°中", ["气", "温", "25°", "中"]),
        ("二\u2060五", ["二\u2060五"]),
        ("한국어는", ["한국어는"]),
        (unicodedata.normalize("NFD", "한국어는"), [unicodedata.normalize("NFD", "한국어는")]),
        ("क्षत्रिय", ["क्षत्रिय"]),
    ],
)
def test_lines_may_end_where_the_script_allows(text, parts):
    assert segments(text) == parts


@pytest.mark.parametrize(
    ("text", "clusters"),
    [
        ("e\u0301a", ["e\u0301", "a"]),
        ("क्षत्रि", ["क्ष", "त्रि"]),
        ("👨\u200d👩\u200d👧a", ["👨\u200d👩\u200d👧", "a"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("\u1112\u1161\u11ab\u1100", ["\u1112\u1161\u11ab", "\u1100"]),
        ("\u0301\u0302", ["\u0301\u0302"]),
        ("မြန်", ["မြ", "န်"]),
    ],
)
def test_clusters_are_what_a_reader_takes_for_one_character(text, clusters):
    assert grapheme_clusters(text) == clusters


@pytest.mark.parametrize(("gap", "width"), [(" ", 5), ("   ", 15), ("\t", 20), ("\u3000", 16), (" \t", 20)])
def test_white_space_has_its_width(gap, width):
    assert gap_width(gap, 0.0, SPACE, 16.0) == width


@pytest.mark.parametrize(
    ("name", "ems"),
    [
        ("EN QUAD", 1 / 2),
        ("EM QUAD", 1),
        ("EN SPACE", 1 / 2),
        ("EM SPACE", 1),
        ("THREE-PER-EM SPACE", 1 / 3),
        ("FOUR-PER-EM SPACE", 1 / 4),
        ("SIX-PER-EM SPACE", 1 / 6),
        ("THIN SPACE", 1 / 5),
        ("MEDIUM MATHEMATICAL SPACE", 4 / 18),
        ("IDEOGRAPHIC SPACE", 1),
    ],
)
def test_a_space_is_as_wide_as_its_name_says(name, ems):
    assert gap_width(unicodedata.lookup(name), 7.0, SPACE, 36.0) == pytest.approx(36 * ems)
    assert gap_width(unicodedata.lookup(name) + " ", 7.0, SPACE, 36.0) == pytest.approx(36 * ems + SPACE)


def test_tabs_go_to_the_next_stop():
    assert gap_width("\t", 12.0, SPACE, 16.0) == 8
    assert gap_width("\t", 20.0, SPACE, 16.0) == 20


@pytest.mark.parametrize(("line_break", "at_least"), [("CL", 20), ("EX", 2), ("CJ", 45), ("NS", 15)])
def test_no_line_begins_with_a_mark_that_unicode_keeps_at_the_end(line_break: str, at_least: int) -> None:
    marks = [
        mark
        for mark in map(chr, range(0x3000, 0x10000))
        if regex.fullmatch(rf"\p{{Line_Break={line_break}}}", mark)
        and unicodedata.east_asian_width(mark) in "WFH"
        and not grapheme_clusters(f"中{mark}")[0].endswith(mark)  # part of the character before it in any case
    ]
    assert len(marks) >= at_least
    assert [mark for mark in marks if segments(f"中{mark}国") != [f"中{mark}", "国"]] == []


def test_no_line_ends_with_a_wide_opening_mark() -> None:
    marks = [
        mark
        for mark in map(chr, range(0x3000, 0x10000))
        if regex.fullmatch(r"\p{Line_Break=OP}", mark) and unicodedata.east_asian_width(mark) in "WF"
    ]
    assert len(marks) >= 20
    assert [mark for mark in marks if segments(f"中{mark}国") != ["中", f"{mark}国"]] == []


@pytest.mark.parametrize(
    "parts",
    [
        "ကောင်း|ဒုက္ခ|သည်|တက္က|သိုလ်|များ၊",
        "សេ|ច|ក្ដី|ថ្លៃ|ថ្នូ|រ។",
        "น้ำ|ใจ|และๆ",
        "ນ້ຳ|ໃຈ|ແລະ|ລາວ|a|b",
    ],
)
def test_words_of_southeast_asia_are_broken_before_no_sign_and_in_lao_and_burmese_before_no_end(parts: str) -> None:
    assert breakable_parts(parts.replace("|", "")) == parts.split("|")
