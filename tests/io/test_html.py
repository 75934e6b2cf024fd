"""Pages of HTML from templates."""

from __future__ import annotations

import jinja2
import pytest

from deepsynth.io.html import render_page

VALUES = {"entries": [], "first_cer": "0.5", "first_step": 1, "latest_cer": "0.25", "latest_step": 2}


def test_values_are_escaped() -> None:
    page = render_page("gallery.html", title="<script>", **VALUES)
    assert "<title>&lt;script&gt;</title>" in page
    assert "<script>" not in page
    assert "CER <strong>0.5</strong> at step 1, <strong>0.25</strong> at step 2." in page


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render_page("gallery.html", **VALUES)


def test_the_lines_of_a_template_s_statements_leave_no_blanks() -> None:
    assert "</header>\n</body>" in render_page("gallery.html", title="title", **VALUES)
