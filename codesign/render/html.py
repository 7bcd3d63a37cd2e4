"""A page of its own: style, script and the few HTML elements that a report is made of.

A page loads nothing, and says so to the browser; what is shown in a notebook is the same without the script.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

EVIDENCE = ("modelled", "simulated", "synthesized", "implemented", "measured", "counted", "assumed", "proven")
"""How a figure can have come about."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


Row = Sequence[str]


def document(title: str, body: str) -> str:
    """A whole page: nothing is loaded, whatever the body says."""
    script = f"<script>{_data('report.js')}</script>" if "cs-explorer" in body else ""
    main = f'<main class="cs-report"><h1>{escape(title)}</h1>\n{body}\n</main>'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_data('report.css')}</style></head>\n"
        f'<body class="cs-page">{main}{script}</body></html>\n'
    )


def fragment(body: str) -> str:
    """The body of a page with its style, for a notebook's output."""
    return f'<style>{_data("report.css")}</style><div class="cs-report">{body}</div>'


def _data(name: str) -> str:
    return (resources.files("codesign") / "data" / name).read_text(encoding="utf-8")


def section(title: str, parts: Iterable[str]) -> str:
    """Parts under a heading; nothing if there are none."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inner}</section>" if inner else ""


def mark(evidence: str) -> Html:
    """A mark that says how a figure came about.

    Raises:
        ValueError: not one of `EVIDENCE`.
    """
    if evidence not in EVIDENCE:
        raise ValueError(f"evidence {evidence!r}; legal: {', '.join(EVIDENCE)}")
    return Html(f'<span class="cs-mark {evidence}">{evidence}</span>')


def paragraph(text: str, *marks: str) -> Html:
    """A paragraph with the marks of its figures behind it."""
    return Html(f"<p>{shown(text)}{''.join(' ' + mark(name) for name in marks)}</p>")


def listing(items: Iterable[str]) -> Html:
    """A list; empty if there are no items."""
    inner = "".join(f"<li>{shown(item)}</li>" for item in items)
    return Html(f"<ul>{inner}</ul>" if inner else "")


def scroll(inner: str, name: str, *, size: str = "") -> Html:
    """A drawing or table that may be wider than the page; keys scroll it.

    Args:
        inner: the drawing or table.
        name: what it shows.
        size: of a drawing: ``wide`` fills the page, ``narrow`` fits a phone.
    """
    kind = f"cs-scroll {size}".strip()
    return Html(f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(name)}">{inner}</div>')


def details(summary: str, inner: str) -> Html:
    """Something that opens on demand; nothing if it is empty."""
    return Html(f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else "")


def table(
    heading: Row,
    rows: Sequence[Row],
    caption: str,
    *,
    strong: frozenset[int] = frozenset(),
    evidence: str | None = None,
) -> Html:
    """A table in a region of its own; columns whose cells all begin like numbers stand to the right.

    Args:
        heading: names of columns; a kind of evidence is shown as its mark.
        rows: as many cells each.
        caption: what the table is about.
        strong: positions of rows that stand out.
        evidence: of all its figures, shown behind the caption.
    """
    right = [bool(rows) and all(_number(row[i]) for row in rows) for i in range(len(heading))]
    head = "".join(
        _cell("th", mark(cell) if cell in EVIDENCE else cell, n) for cell, n in zip(heading, right, strict=True)
    )
    body = "".join(_row(row, right, number in strong) for number, row in enumerate(rows))
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    marked = "" if evidence is None else f" {mark(evidence)}"
    return Html(f'<p class="cs-caption">{shown(caption)}{marked}</p>{scroll(inner, caption)}')


def _row(row: Row, right: Sequence[bool], strong: bool) -> str:
    cells = zip(row, right, strict=True)
    inner = "".join(_cell("th" if i == 0 else "td", cell, n) for i, (cell, n) in enumerate(cells))
    return f'<tr class="binding">{inner}</tr>' if strong else f"<tr>{inner}</tr>"


def _cell(tag: str, text: str, right: bool) -> str:
    kind = ' class="n"' if right else ""
    return f"<{tag}{kind}>{shown(text)}</{tag}>"


def _number(text: str) -> bool:
    return (
        text in ("", "–", "exact", "not possible") or text[:1].isdigit() or (text[:1] in "+-−" and text[1:2].isdigit())
    )


def shown(text: str) -> str:
    """The text as HTML."""
    return text if isinstance(text, Html) else escape(text)


def pairs(values: Mapping[str, object]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
