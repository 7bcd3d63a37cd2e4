import pytest

from codesign.render.html import EVIDENCE, Html, details, document, fragment, listing, mark, paragraph, section, table


def test_text_is_escaped_unless_it_is_html() -> None:
    for made in (paragraph, lambda text: listing([text]), lambda text: table(["a"], [[text]], "c")):
        assert "&lt;b&gt;" in made("<b>")
        assert "<b>" in made(Html("<b>"))
    assert "<title>&lt;b&gt;</title>" in document("<b>", "")


def test_only_known_evidence_is_marked() -> None:
    for evidence in EVIDENCE:
        assert f">{evidence}<" in mark(evidence)
    with pytest.raises(ValueError, match="evidence 'guessed'; legal: modelled, simulated"):
        mark("guessed")


def test_numbers_stand_to_the_right() -> None:
    page = table(
        ["name", "modelled", "why"], [["a", "1,000", "x"], ["b", "–", "2 of 3"]], "what", strong=frozenset({1})
    )
    assert '<th class="n"><span class="cs-mark modelled">' in page
    assert '<td class="n">1,000</td><td>x</td>' in page
    assert '<tr class="binding"><th>b</th>' in page
    assert 'aria-label="what"' in page


def test_rows_have_as_many_cells_as_the_heading() -> None:
    for row in (["a"], ["a", "b", "c"]):
        with pytest.raises((ValueError, IndexError)):
            table(["one", "two"], [row], "c")


def test_what_is_empty_is_left_out() -> None:
    assert section("title", ["", ""]) == ""
    assert details("title", "") == ""
    assert listing([]) == ""


def test_only_a_page_with_designs_has_a_script() -> None:
    assert "<script>" not in document("t", "text")
    assert "<script>" in document("t", '<div class="cs-explorer"></div>')
    assert "<script" not in fragment("text")


def test_a_page_forbids_loading() -> None:
    page = document("t", "text")
    assert "default-src 'none'" in page.partition("<style>")[0]
    assert "http" not in page.replace("http-equiv", "")
