import sys

import pytest

from deepsynth.data.typesetting.hyphenation import ThaiWords, hyphenation_for
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph, RunStyle
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE

WIDE = "Incomprehensibilitiesresponsibilitiescharacteristically"


@pytest.mark.parametrize(
    ("language", "word", "shown"),
    [
        ("en", "hyphenation", "hy-phen-a-tion"),
        (None, "(“hyphenation”).", "(“hy-phen-a-tion”)."),
        ("de-DE", "Silbentrennung", "Sil-ben-tren-nung"),
        ("fr", "l’association", "l’as-so-cia-tion"),
        ("ru", "переносами", "пе-ре-но-сами"),
        ("hu", "asszonnyal", "asszonnyal"),
        ("en", "http://hyphenation.org", "http://hyphenation.org"),
        ("en", "word", "word"),
        ("en", "x86hyphenation", "x86hyphenation"),
    ],
)
def test_words_are_divided_by_the_patterns_of_their_language(language, word, shown):
    pytest.importorskip("pyphen")
    cuts = hyphenation_for(language).cuts(word)
    assert "-".join(word[a:b] for a, b in zip([0, *cuts], [*cuts, len(word)], strict=True)) == shown


def test_a_language_without_a_dictionary_is_not_hyphenated():
    pytest.importorskip("pyphen")
    assert hyphenation_for("zh") is None
    assert hyphenation_for("ar") is None


@pytest.mark.parametrize("styles", [1, 2])
@pytest.mark.parametrize("justify", [False, True])
def test_a_hyphen_is_drawn_and_is_not_in_the_text(shaper, styles, justify):
    pytest.importorskip("pyphen")
    text = "considerable international hyphenation responsibility fundamentally characterizes communication"
    runs = ((text, BODY),) if styles == 1 else ((text[:20], BODY), (text[20:], RunStyle(bold=True)))
    typesetter = Typesetter(shaper, STYLE, 1.3, justify, hyphenation_for("en"))
    wrapped = list(typesetter.lines(Paragraph(runs), 160))
    divided = [line for line in wrapped if line.joiner == ""]
    assert divided
    assert "".join(line.text + line.joiner for line in wrapped).rstrip() == text
    hyphen = shaper.shape("-", STYLE)
    for line in divided:
        piece, x = line.places[-1]
        letters = shaper.shape(piece.text, STYLE if styles == 1 else STYLE._replace(bold=True))
        assert piece.advance - letters.advance >= hyphen.advance - 1
        assert not piece.text.endswith("-")
        assert x + piece.room <= 160 + 1e-6
        if justify and len(line.places) > 1:
            assert x + piece.room == pytest.approx(160, abs=1)
    whole = list(Typesetter(shaper, STYLE, 1.3, justify).lines(Paragraph(runs), 160))
    assert all(line.joiner != "" for line in whole)


def test_a_word_wider_than_the_column_is_divided_on_every_line(shaper):
    pytest.importorskip("pyphen")
    wrapped = list(Typesetter(shaper, STYLE, 1.3, False, hyphenation_for("en")).lines(Paragraph(((WIDE, BODY),)), 70))
    assert "".join(line.text for line in wrapped) == WIDE
    assert len(wrapped) >= 4
    assert all(line.places[-1][0].hyphenated for line in wrapped[:-1])


@pytest.mark.parametrize(
    ("phrase", "shown"),
    [
        ("วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะ", "วัน|นี้|อากาศ|ดี|มาก|เรา|ไป|เดิน|เล่น|ที่|สวน|สาธารณะ"),
        ("มหาวิทยาลัยเชียงใหม่", "มหาวิทยาลัย|เชียงใหม่"),  # the model makes a word of the first consonant
        ("ไทยThailandมีชื่อ", "ไทยThailandมี|ชื่อ"),
        ("Thailand", "Thailand"),
    ],
)
def test_thai_phrases_are_divided_between_words(phrase, shown):
    pytest.importorskip("budoux")
    thai = hyphenation_for("th-TH")
    cuts = thai.cuts(phrase)
    assert "|".join(phrase[a:b] for a, b in zip([0, *cuts], [*cuts, len(phrase)], strict=True)) == shown
    assert isinstance(thai, ThaiWords)


@pytest.mark.parametrize(
    ("phrase", "shown"),
    [
        # Article 1 of the Universal Declaration. "ເສລີ" stays whole: a ລ after a consonant may belong to it.
        ("ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ", "ມະ|ນຸດ|ທຸກ|ຄົນ|ເກີດ|ມາ|ມີ|ກຽດ|ສັກ|ສີ"),
        ("ເສລີພາບແລະຄວາມສະເໝີພາບ", "ເສລີ|ພາບ|ແລະ|ຄວາມ|ສະ|ເໝີ|ພາບ"),
        ("ນ້ຳໃຈແລະພາສາລາວ", "ນ້ຳ|ໃຈ|ແລະ|ພາ|ສາ|ລາວ"),  # sara am
        ("ຫລວງພະບາງຫຼວງຖະຫນົນ", "ຫລວງ|ພະ|ບາງ|ຫຼວງ|ຖະ|ຫນົນ"),  # clusters with ຫ
        ("ຂອງຂ້ອຍເມືອງຕົວະດ້ວຍໆ", "ຂອງ|ຂ້ອຍ|ເມືອງ|ຕົວະ|ດ້ວຍໆ"),  # ອ, ວ and ຍ as vowels
        ("ကောင်းဒုက္ခအခွင့်အရေးများ၊", "ကောင်း|ဒုက္ခ|အ|ခွင့်|အ|ရေး|များ၊"),  # Burmese
        ("ລາວLaosມີ", "ລາວLaosມີ"),
        ("Laos", "Laos"),
    ],
)
def test_phrases_of_lao_and_burmese_are_divided_between_syllables(phrase, shown):
    cuts = hyphenation_for("my" if "က" <= phrase[0] <= "အ" else "lo-LA").cuts(phrase)
    assert "|".join(phrase[a:b] for a, b in zip([0, *cuts], [*cuts, len(phrase)], strict=True)) == shown


def test_thai_without_its_library_names_the_package(monkeypatch):
    hyphenation_for.cache_clear()
    monkeypatch.setitem(sys.modules, "budoux", None)
    with pytest.raises(UserError, match=r"needs the package budoux for Thai.*'deepsynth-ocr\[hyphenation\]"):
        hyphenation_for("th")
