"""Report sections of a search result: the designs, the sensitivity to each parameter, and the proof.

A search result is a mapping with ``strategy``, ``objectives``, ``points``, ``evaluated``, ``proof``, ``chosen``
(index into ``front`` or None) and ``front`` (one mapping per design: parameters and objectives by name).
Optional: ``proven`` (True if no other design belongs to the front, else unknown), ``scored``, ``seconds``,
``neighbours`` (see `neighbours`) and ``commands`` (one per design).
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from codesign.render.html import Html, details, paragraph, scroll, section, table
from codesign.render.svg import STYLE, Picture, Row, columns, first_axes, scatter, short

RESOURCES = ("dsp", "bram36", "uram", "lut", "ff")
_MOST = 100
"""Maximum designs in the table."""

Search = Mapping[str, Any]
Score = Callable[[Mapping[str, int]], Mapping[str, float] | None]


def sections(search: Search, command: str, budget: Mapping[str, int], *, interactive: bool = True) -> str:
    """HTML of explorer, sensitivity and proof; only the proof if there are no designs.

    Args:
        search: search result, see the module.
        command: command line that built the bundle, without objective and budget.
        budget: resource limits of that command.
        interactive: whether the page has a script; if not, a plot replaces the explorer.
    """
    rows: Sequence[Row] = search["front"]
    proof = (
        [paragraph(str(search["proof"]), "proven" if _proven(search) else "modelled")] if search.get("proof") else []
    )
    if not rows:
        return section("How it was searched", proof)
    count = f"{len(rows)} designs of {_among(search)} of which none is better in every objective"
    text = f"{count} ({', '.join(search['objectives'])}). {_rule(search)}"
    shown = explorer(search, command, budget) if interactive else scroll(plot(search).svg, "the best designs")
    return "\n".join(
        [
            section("Designs", [paragraph(text, "modelled"), shown, _designs(search)]),
            section("What a parameter buys", [*_steps(search), *_along(search)]),
            section("How it was searched", [paragraph(f"Strategy {search['strategy']}."), *proof]),
        ]
    )


def share(value: float) -> str:
    """A share in per cent, as ``--within`` takes it.

    >>> share(0.02)
    '2%'
    """
    return f"{100 * value:.6g}%"


def _proven(search: Search) -> bool:
    return search.get("proven") is True


def _among(search: Search) -> str:
    """Text giving the number of designs; without a proof, of evaluated ones."""
    points = f"{int(search['points']):,}"
    return points if _proven(search) else f"the {int(search['evaluated']):,} looked at, out of {points},"


def _rule(search: Search) -> str:
    if search.get("chosen") is None:
        return "The design that was built is not one of them."
    objective = search.get("objective")
    if not objective:
        return "The one that was built is marked."
    near = f", within {share(search['within'])} of the best" if search.get("within") else ""
    return f"The one that was built is marked; it was chosen for {objective}{near}."


# The explorer ------------------------------------------------------------------------------


def plot(search: Search, x: str | None = None, y: str | None = None) -> Picture:
    """Scatter plot of two columns; see `codesign.render.svg.scatter`."""
    return scatter(search["front"], x, y, objectives=search["objectives"], chosen=search.get("chosen"))


def explorer(search: Search, command: str, budget: Mapping[str, int]) -> Html:
    """Scatter plot with selectable columns; without a script the default plot is shown."""
    rows, names, chosen = search["front"], columns(search["front"], search["objectives"]), search.get("chosen")
    if chosen is not None and not 0 <= chosen < len(rows):
        raise ValueError(f"chosen is {chosen!r}; legal: None or a position in the front of {len(rows)}")
    axes, commands = first_axes(names), search.get("commands") or _commands(search, command, budget)
    data = {
        "columns": names, "objectives": list(search["objectives"]), "chosen": chosen, "commands": list(commands),
        "rows": [[row[name] for name in names] for row in rows],
    }  # fmt: skip
    at = 0 if chosen is None else chosen
    return Html(
        '<div class="cs-explorer">'
        f'<script type="application/json">{_embedded(data)}</script><template>{STYLE}</template>'
        f'<div class="cs-controls">{_select("across", names, axes[0])}{_select("up", names, axes[1])}</div>'
        f'<div class="cs-canvas">{plot(search).svg}</div>'
        '<div class="cs-detail" tabindex="0" role="region" aria-label="the design pointed at">'
        f'<p><button type="button" disabled>copy</button> <span class="cs-which" aria-live="polite">design {at + 1} of'
        f' {len(rows)}</span> <span class="cs-status" role="status"></span></p><dl class="cs-values"></dl>'
        f'<p><code class="cs-command">{escape(commands[at], quote=False)}</code></p></div></div>'
        "<p>The command builds that very design; that of the one that was built searches again.</p>"
    )


def _embedded(data: object) -> str:
    """JSON safe to embed in a script element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _select(name: str, names: Sequence[str], value: str) -> str:
    options = "".join(f"<option{' selected' if n == value else ''}>{escape(n, quote=False)}</option>" for n in names)
    return f"<label>{name} <select disabled>{options}</select></label>"


def build_commands(rows: Sequence[Row], objectives: Sequence[str], command: str) -> list[str]:
    """Command line that builds each design.

    >>> build_commands([{"t_in": 8, "n_l": 2, "dsp": 40}], ["dsp"], "codesign build m --board b")
    ['codesign build m --board b --design t_in=8,n_l=2']
    """
    names = [name for name in columns(rows, objectives) if name not in objectives]
    points = (",".join(f"{name}={int(row[name])}" for name in names) for row in rows)
    return [f"{command} --design {shlex.quote(point)}" for point in points]


def _commands(search: Search, command: str, budget: Mapping[str, int]) -> list[str]:
    """`build_commands`, but the chosen design gets the command that built it."""
    found = build_commands(search["front"], search["objectives"], command)
    chosen, objective = search.get("chosen"), search.get("objective")
    if chosen is not None and objective is not None:
        options = f"--objective {shlex.quote(objective)} --strategy {shlex.quote(search['strategy'])}"
        options += f" --within {share(search['within'])}" if search.get("within") else ""
        found[chosen] = f"{command} {options}{_limits(budget)}"
    return found


def _limits(limits: Mapping[str, int | float]) -> str:
    """The ``--budget`` option; empty without limits."""
    text = ",".join(f"{name}={int(limits[name])}" for name in RESOURCES if name in limits)
    return f" --budget {text}" if text else ""


def base_command(model: str, board: str) -> str:
    """Shell-quoted command line that builds a model for a board.

    >>> base_command("my model.onnx", "zcu102")
    "codesign build 'my model.onnx' --board zcu102"
    """
    return f"codesign build {shlex.quote(model)} --board {shlex.quote(board)}"


def _designs(search: Search) -> Html:
    """Table of the designs, or of `_MOST` around the chosen one."""
    rows = search["front"]
    heading = ["design", *columns(rows, search["objectives"])]
    at = search.get("chosen") or 0
    first = max(0, min(at - _MOST // 2, len(rows) - _MOST))
    shown = range(first, min(first + _MOST, len(rows)))
    cells = [[f"{i + 1}", *(short(rows[i][name]) for name in heading[1:])] for i in shown]
    strong = frozenset() if search.get("chosen") is None else frozenset({at - first})
    what = "all designs" if len(shown) == len(rows) else f"designs {first + 1} to {first + len(shown)} of {len(rows)}"
    return details(f"{what} as a table", table(heading, cells, what, strong=strong, evidence="modelled"))


# Sensitivity -------------------------------------------------------------------------------


def neighbours(chosen: Mapping[str, int], axes: Mapping[str, Sequence[int]], score: Score) -> list[dict[str, Any]]:
    """Objectives of the designs one step down or up along each parameter of a design.

    Args:
        chosen: parameters of the design.
        axes: ascending values by parameter.
        score: objectives of a design by name; None if it cannot be built or does not fit.

    Returns:
        One mapping per step: ``parameter``, ``value`` and the objectives, which are missing where ``score`` is None.

    >>> neighbours({"n": 2}, {"n": (1, 2)}, lambda point: {"dsp": 4.0 * point["n"]})
    [{'parameter': 'n', 'value': 1, 'dsp': 4.0}]
    """
    found = []
    for name, values in axes.items():
        at = list(values).index(chosen[name])
        for value in [*values[max(0, at - 1) : at], *values[at + 1 : at + 2]]:
            found.append({"parameter": name, "value": value, **(score({**chosen, name: value}) or {})})
    return found


def _steps(search: Search) -> list[str]:
    """A table of the neighbours of the chosen design."""
    chosen, steps = search.get("chosen"), search.get("neighbours")
    if chosen is None or not steps:
        return []
    here, objectives = search["front"][chosen], search["objectives"]
    rows, same = [], []
    for step in steps:
        name = step["parameter"]
        known = all(objective in step for objective in objectives)
        if known and all(step[objective] == here[objective] for objective in objectives):
            same.append(f"{name} {short(here[name])} → {short(step['value'])}")
            continue
        changes = (
            [_change(here[o], step[o]) for o in objectives]
            if known
            else ["not possible"] + ["–"] * (len(objectives) - 1)
        )
        rows.append([name, short(here[name]), short(step["value"]), *changes])
    caption = "One parameter of the built design one step down or up, everything else as it is"
    found: list[str] = [table(["parameter", "here", "there", *objectives], rows, caption, evidence="modelled")]
    return [*found, paragraph(f"No difference here: {', '.join(same)}.", "modelled")] if same else found


def _along(search: Search) -> list[str]:
    """Table, per parameter, of the nearest front designs with another value."""
    chosen, rows, objectives = search.get("chosen"), search["front"], search["objectives"]
    if chosen is None or len(rows) < 2:
        return []
    parameters = [name for name in columns(rows, objectives) if name not in objectives]
    here, found = rows[chosen], []
    for name in parameters:
        for side in (-1, 1):
            there = _nearest(rows, chosen, name, side, parameters)
            if there is None:
                continue
            others = [
                f"{p} {short(here[p])} → {short(there[p])}" for p in parameters if p != name and there[p] != here[p]
            ]
            changes = [_change(here[o], there[o]) for o in objectives]
            found.append([name, short(here[name]), short(there[name]), *changes, ", ".join(others) or "nothing else"])
    caption = "The nearest design among the best with a smaller and with a larger value of each parameter"
    fixed = [p for p in parameters if all(row[p] == here[p] for row in rows)]
    note = [paragraph(f"The same in all of the best designs: {', '.join(f'{p} {short(here[p])}' for p in fixed)}.")]
    heading = ["parameter", "here", "there", *objectives, "also"]
    nearest = details("designs among the best next to this one", table(heading, found, caption, evidence="modelled"))
    return [nearest, *(note if fixed else [])]


def _nearest(rows: Sequence[Row], chosen: int, name: str, side: int, parameters: Sequence[str]) -> Row | None:
    """Design with a smaller (-1) or larger (1) value of a parameter and the fewest other changes; ties: nearest row."""
    here = rows[chosen]
    there = [i for i, row in enumerate(rows) if (row[name] - here[name]) * side > 0]
    return min(
        (rows[i] for i in sorted(there, key=lambda i: abs(i - chosen))),
        key=lambda row: sum(row[p] != here[p] for p in parameters),
        default=None,
    )


def _change(here: float, there: float) -> str:
    """New value with its relative change, as text.

    >>> _change(200, 150)
    '150 (−25.0 %)'
    """
    if here == there:
        return f"{short(there)} (as here)"
    share = f"{100 * (there - here) / abs(here):+.1f} %".replace("-", "−") if here else "was 0"
    return f"{short(there)} ({share})"
