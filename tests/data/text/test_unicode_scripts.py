import pytest

from deepsynth.data.text.unicode_scripts import font_package, region_of, script_of, script_words


@pytest.mark.parametrize(
    ("text", "language", "region"),
    [
        ("hello", None, "SC"),
        ("漢字", None, "SC"),
        ("漢字かな", None, "JP"),
        ("한국", None, "KR"),
        ("漢字", "ja", "JP"),
        ("漢字かな", "en", "JP"),
        ("漢字", "zh-TW", "TC"),
        ("漢字", "zh_Hant", "TC"),
        ("漢字", "zh-CN", "SC"),
    ],
)
def test_forms_of_chinese_characters_follow_language_and_text(text, language, region):
    assert region_of(text, language) == region


def test_script_words_name_the_fonts_made_for_a_script():
    assert script_words("漢", "JP")[0] == "cjk jp"
    assert script_words("क", "SC")[0] == "devanagari"


@pytest.mark.parametrize(
    ("character", "package"),
    [
        ("漢", "fonts-noto-cjk"),
        ("『", "fonts-noto-cjk"),
        ("㎏", "fonts-noto-cjk"),
        ("क", "fonts-noto-core"),
        ("🎉", "fonts-symbola"),
        ("\ue000", "private use"),
    ],
)
def test_a_missing_character_names_a_package(character, package):
    assert package in font_package(character)


def test_letters_and_marks_have_a_script_and_signs_have_none():
    assert [script_of(c) for c in "aкے֑漢かหำ"] == [
        *("latin", "cyrillic", "naskh arabic", "hebrew", "cjk", "cjk", "thai", "thai"),
    ]
    assert [script_of(c) for c in " .1『\u0301\U000e0100"] == [""] * 6
