"""Texts, formulas and tables as OmniDocBench compares them."""

from __future__ import annotations

import html
import re
import unicodedata

_INLINE = re.compile(r"\$(.*?)\$|\\\((.*?)\\\)")
_ESCAPED = re.compile(r"\\([\\_&%^])")
_COMMAND = re.compile(r"\\(?:begin|end)\{[^}]*\}(?:\{[^}]*\})?|\\([A-Za-z]+)\*?|\\.")
_GREEK = re.findall(
    "[a-z]+",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega",
)
_UNICODE_NAMES = {"lambda": "lamda"}
#: Commands that write letters. What writes none is left out, and what it is applied to stays.
_LETTERS = {
    **{name: unicodedata.lookup(f"GREEK SMALL LETTER {_UNICODE_NAMES.get(name, name)}") for name in _GREEK},
    **{name.title(): unicodedata.lookup(f"GREEK CAPITAL LETTER {_UNICODE_NAMES.get(name, name)}") for name in _GREEK},
    "epsilon": "ϵ", "phi": "ϕ", "varepsilon": "ε", "varphi": "φ", "vartheta": "ϑ", "varrho": "ϱ", "varsigma": "ς",
    "varpi": "ϖ", "varkappa": "ϰ", "ell": "ℓ", "hbar": "ħ", "aleph": "ℵ", "wp": "℘",
    "ss": "ß", "o": "ø", "O": "Ø", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å",
}  # fmt: skip
#: Mathematical alphabets by command, as Unicode names them.
_ALPHABETS = {
    "mathbf": ("BOLD",), "mathit": ("ITALIC",), "mathbb": ("DOUBLE-STRUCK",), "mathcal": ("SCRIPT",),
    "mathscr": ("SCRIPT",), "mathfrak": ("FRAKTUR", "BLACK-LETTER"), "mathsf": ("SANS-SERIF",),
    "mathtt": ("MONOSPACE",),
}  # fmt: skip
_ALPHABET = re.compile(rf"\\({'|'.join(_ALPHABETS)})\s*(?:\{{([^{{}}]*)\}}|([A-Za-z]))")
#: Functions whose names the published code writes (``\\cot`` and others are not among them).
_FUNCTIONS = re.findall(
    "[a-z]+",
    "arccos arcsin arctan cos cosh exp inf lim liminf limsup ln log max min sin sinh sup tan tanh",
)
#: Characters that are spelled otherwise, before what is no letter or digit is left out.
_ESCAPES = re.compile(r"\\t|\\n|\t|\n|/t|/n")
_NO_WORD = re.compile(r"[^\w\u4e00-\u9fff]")

#: What a formula is compared without, in the order in which one is looked for at a place.
_FORMULA_NOISE = re.compile(
    r"\\math(?:bf|rm|normal|it|bb|cal|scr|frak|sf|tt)|\\textbf|\\text|\\boldmath|\\boldsymbol|\\operatorname|\\bm"
    r"|\\symbfit|\\symbf|\\scriptscriptstyle|\\notag|\\setlength|\\coloneqq|\\space|\\(?:thick|thin|med|negmed)space"
    r"|\\nobreakspace|\\quad|\\qquad|\\enspace|\\substackw|\$\$|\\left|\\right|\\displaystyle| "
)
_FORMULA_FRAME = re.compile(r"\\\[(.+?)(?<!\\)\\\]")
_FORMULA_LAYOUT = re.compile(r"\\(?:tag|hspace|begin|end)\{.*?\}|\\arraycolsep.*?\}")

_TABLE_LAYOUT = re.compile(
    r"</?(?:thead|tbody|sup|sub|span|div|p)\b[^>]*>|<colgroup>.*?</colgroup>"
    r"| (?:style|height|width|align|class)=\".*?\"",
    re.IGNORECASE | re.DOTALL,
)
_MATH_TAG = re.compile(r"<math\b[^>]*?alttext=\"([^\"]*)\".*?</math>", re.IGNORECASE | re.DOTALL)
#: A tag of HTML with its name and attributes, and an attribute.
_TAG = re.compile(r"<(/?[A-Za-z]+)((?:\s+[\w-]+(?:=(?:\"[^\"]*\"|'[^']*'|[^\s\"'>]+))?)*)\s*/?>")
_ATTRIBUTE = re.compile(r"([\w-]+)(?:=(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
_TABLE_BODY = re.compile(r"<table\b[^>]*>(.*)</table>")


def text_letters(text: str) -> str:
    """Return the letters, digits and underscores of a text, inline formulas as what they show."""
    shown = _INLINE.sub(lambda match: _shown(match.group(), match[1] or match[2] or ""), text)
    return letters_only(shown)


def letters_only(text: str) -> str:
    """Return a text without all that is no letter, digit or underscore, tabs and line ends in any spelling too."""
    return _NO_WORD.sub("", _ESCAPES.sub("", text))


def _shown(whole: str, formula: str) -> str:
    marked = any(character in _ESCAPED.sub("", formula) for character in r"\^_")
    return formula_letters(formula) if marked else whole


def formula_letters(latex: str) -> str:
    r"""Return what a formula shows as one line: letters of all alphabets (``\mathbf``) and names of functions."""
    styled = _ALPHABET.sub(lambda match: "".join(_styled(match[1], c) for c in match[2] or match[3] or ""), latex)
    return re.sub(r"[{}^&$]", "", _COMMAND.sub(_letter, styled)).strip()


def _styled(command: str, character: str) -> str:
    size = "CAPITAL" if character.isupper() else "SMALL"
    for style in _ALPHABETS[command]:
        for prefix in ("MATHEMATICAL ", ""):
            try:
                return unicodedata.lookup(f"{prefix}{style} {size} {character.upper()}")
            except KeyError:
                continue
    return character


def _letter(match: re.Match[str]) -> str:
    name = match[1] or ""
    return "_" if match.group() == r"\_" else _LETTERS.get(name, name if name in _FUNCTIONS else "")


def normalized_formula(latex: str) -> str:
    """Return a formula in small letters without its frame, fonts, spaces and environments."""
    text = latex.strip().strip("$").strip("\n")
    frame = _FORMULA_FRAME.search(text)
    text = _FORMULA_LAYOUT.sub("", frame[1].strip() if frame else text)
    return _FORMULA_NOISE.sub("", text.strip(".")).lower()


def normalized_table(table: str) -> str:
    """Return an HTML table in NFKC, all cells ``td``, without groups of rows, styles and inline tags; "" for none."""
    text = re.sub(r">\s*\n\s*<", "><", _TAG.sub(_tag, _MATH_TAG.sub(r"$\1$", table)))
    text = unicodedata.normalize("NFKC", html.unescape(text).replace("\n", "")).strip()
    body = "".join(_TABLE_BODY.findall(text))
    body = re.sub(r"\s+", " ", _TABLE_LAYOUT.sub("", body))
    return f'<html><body><table border="1" >{body}</table></body></html>' if "<table" in table else ""


def _tag(match: re.Match[str]) -> str:
    """Return a tag in small letters with its attributes in order and in double quotes."""
    name = re.sub("th$", "td", match[1].lower())
    found = sorted((key.lower(), one or two or three) for key, one, two, three in _ATTRIBUTE.findall(match[2]))
    attributes = "".join(f' {key}="{value}"' for key, value in found)
    return f"<{name}{attributes}{'/' if name == 'br' else ''}>"
