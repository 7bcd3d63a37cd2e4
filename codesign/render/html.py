"""Self-contained HTML pages: style, script and the elements of a report.

A page loads nothing, enforced by its content security policy; a notebook shows the same without the script.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

EVIDENCE = ("modelled", "simulated", "synthesized", "implemented", "measured", "counted", "assumed", "proven")
"""Kinds of evidence for a figure."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Html(str):
    """Text that is already HTML; any other text is escaped."""

    __slots__ = ()


Row = Sequence[str]


def document(title: str, body: str) -> str:
    """A complete page that loads nothing, whatever the body contains."""
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
    """A page's body with its style, for notebook output."""
    return f'<style>{_data("report.css")}</style><div class="cs-report">{body}</div>'


def _data(name: str) -> str:
    return (resources.files("codesign") / "data" / name).read_text(encoding="utf-8")


def section(title: str, parts: Iterable[str]) -> str:
    """Parts under a heading; empty if there are no parts."""
    inner = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{inner}</section>" if inner else ""


def mark(evidence: str) -> Html:
    """A mark that shows a figure's evidence.

    Raises:
        ValueError: not one of `EVIDENCE`.
    """
    if evidence not in EVIDENCE:
        raise ValueError(f"evidence {evidence!r}; legal: {', '.join(EVIDENCE)}")
    return Html(f'<span class="cs-mark {evidence}">{evidence}</span>')


def paragraph(text: str, *marks: str) -> Html:
    """A paragraph followed by the evidence marks of its figures."""
    return Html(f"<p>{shown(text)}{''.join(' ' + mark(name) for name in marks)}</p>")


def listing(items: Iterable[str]) -> Html:
    """A list; empty if there are no items."""
    inner = "".join(f"<li>{shown(item)}</li>" for item in items)
    return Html(f"<ul>{inner}</ul>" if inner else "")


def scroll(inner: str, name: str, *, size: str = "") -> Html:
    """Keyboard-scrollable region for a drawing or table wider than the page.

    Args:
        inner: the drawing or table.
        name: accessible name of the region.
        size: size of a drawing: ``wide`` fills the page, ``narrow`` fits a phone.
    """
    kind = f"cs-scroll {size}".strip()
    return Html(f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(name)}">{inner}</div>')


def details(summary: str, inner: str) -> Html:
    """Collapsible content; empty if ``inner`` is."""
    return Html(f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else "")


def table(
    heading: Row,
    rows: Sequence[Row],
    caption: str,
    *,
    strong: frozenset[int] = frozenset(),
    evidence: str | None = None,
) -> Html:
    """A table in a scroll region; columns whose cells all begin like numbers are right-aligned.

    Args:
        heading: column names; a kind of evidence is shown as its mark.
        rows: one cell per column.
        caption: caption of the table.
        strong: indices of highlighted rows.
        evidence: evidence of all its figures, shown after the caption.
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
