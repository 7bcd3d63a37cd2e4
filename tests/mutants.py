"""Single faults of Python sources: where an operator, a constant, a condition or a statement can be wrong.

A fault is a change of bytes, so that the rest of a file stays as it is, comments included.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

KINDS = (
    "arithmetic", "boolean", "comparison", "condition", "constant", "index", "keyword", "mux", "statement",
)  # fmt: skip
"""Classes of faults: an operator of numbers, of truth values or of order replaced; a condition negated; an integer, or
a bound of a slice, one more; a keyword left out or two exchanged; arms exchanged; a statement left out."""

_ORDER = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
_NUMBERS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "//"), ast.FloorDiv: ("//", "*"), ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
}  # fmt: skip
_BITS = {ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")}
_UNHEARD = ("__repr__", "__str__", "_repr_html_")
"""Functions that only show."""
_SPOKEN = ("print", "warn", "debug", "info", "warning")
"""Functions whose calls only tell."""
_FREE = ("strict", "name", "src_loc_at", "stacklevel", "encoding")
"""Keywords that decide nothing."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: ``text`` in place of the bytes ``start`` to ``end`` of ``file``."""

    file: str
    kind: str
    start: int
    end: int
    text: str

    def planted(self, source: bytes) -> bytes:
        """The file with the fault."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def valid(self, source: bytes) -> bool:
        """Whether the file with the fault is still Python, and other Python than before."""
        try:
            return ast.dump(ast.parse(self.planted(source))) != _tree(source)
        except SyntaxError:
            return False

    def shown(self, source: bytes) -> tuple[int, str, str]:
        """Number of the first line that differs, counted from 1; that line before and after, without its margins."""
        before, after = (text.decode().split("\n") for text in (source, self.planted(source)))
        line = next(i for i, (b, a) in enumerate(zip(before, after, strict=False)) if b != a)
        return line + 1, before[line].strip(), after[line].strip()


@lru_cache(maxsize=64)
def _tree(source: bytes) -> str:
    """The syntax tree of a file as text."""
    return ast.dump(ast.parse(source))


def mutants(file: str, source: bytes) -> list[Mutant]:
    """All faults of a file, in the order of their places. A few may not be `Mutant.valid`."""
    sites = _Sites(source)
    sites.visit(ast.parse(source))
    return [Mutant(file, *site) for site in sorted(set(sites.found), key=lambda site: (site[1], site[2], site))]


class _Sites(ast.NodeVisitor):
    """Collects faults as (class, start, end, text)."""

    def __init__(self, source: bytes) -> None:
        self.source, self.found = source, list[tuple[str, int, int, str]]()
        self._starts = [0]
        for line in source.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self.found.append((kind, *self._span(node), text))

    def _operator(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """An operator between two expressions, which may stand in brackets and on different lines."""
        start, end = self._span(left)[1], self._span(right)[0]
        at = self.source.find(old.encode(), start, end)
        if at >= 0:
            self.found.append((kind, at, at + len(old), new))

    def _exchange(self, kind: str, one: ast.expr, two: ast.expr) -> None:
        start, end = self._span(one)[0], self._span(two)[1]
        between = self.source[self._span(one)[1] : self._span(two)[0]].decode()
        self.found.append((kind, start, end, self._text(two) + between + self._text(one)))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in _UNHEARD:
            for part in (*node.args.defaults, *(d for d in node.args.kw_defaults if d), *node.body):
                self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error's text is not code that a result depends on."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """An assertion only says what is so."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text."""

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
            self._operator("comparison", left, right, *_ORDER[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.List | ast.Tuple | ast.JoinedStr) for side in (node.left, node.right)):
            if type(node.op) in _NUMBERS:
                self._operator("arithmetic", node.left, node.right, *_NUMBERS[type(node.op)])
            if type(node.op) in _BITS and not (_is_type(node.left) or _is_type(node.right)):
                self._operator("boolean", node.left, node.right, *_BITS[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            self._operator("boolean", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start = self._span(node)[0]
        if isinstance(node.op, ast.Not | ast.Invert):
            self.found.append(("boolean", start, start + (4 if isinstance(node.op, ast.Not) else 1), ""))
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self.found.append(("arithmetic", start, start + 1, ""))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace("boolean", node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace("constant", node, str(node.value + 1))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            bounds = [part.lower, part.upper, part.step] if isinstance(part, ast.Slice) else [part]
            for bound in bounds:
                self._index(bound, isinstance(part, ast.Slice))

    def _index(self, bound: ast.expr | None, is_slice: bool) -> None:
        sign = bound.operand if isinstance(bound, ast.UnaryOp) and isinstance(bound.op, ast.USub) else bound
        if isinstance(sign, ast.Constant):
            if isinstance(sign.value, int):
                self._replace("index", sign, str(sign.value + 1))
        elif bound is not None:
            if is_slice:
                self._replace("index", bound, f"({self._text(bound)}) + 1")
            self.visit(bound)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _SPOKEN:
            return
        if name in ("Mux", "where") and len(node.args) == 3:
            self._exchange("mux", node.args[1], node.args[2])
        if name in ("If", "Elif") and len(node.args) == 1:
            self._replace("condition", node.args[0], f"({self._text(node.args[0])}) == 0")
        named = [keyword for keyword in node.keywords if keyword.arg and keyword.arg not in _FREE]
        for one, two in pairwise(named):
            self._exchange("keyword", one.value, two.value)
        if len(named) == 1 and len(node.keywords) == 1:
            self._leave_out("keyword", [*node.args, named[0].value], len(node.args), f"{named[0].arg}=")
        for part in (node.func, *node.args, *(k.value for k in node.keywords if k.arg not in _FREE)):
            self.visit(part)

    def _leave_out(self, kind: str, parts: Sequence[ast.expr], index: int, prefix: str = "") -> None:
        """One part of a list that commas separate; ``prefix`` stands before it."""
        start, end = self._span(parts[index])
        if index:
            start = self._span(parts[index - 1])[1]
        elif len(parts) > 1:
            end = self._span(parts[1])[0]
        else:
            start -= len(prefix)
        self.found.append((kind, start, end, ""))

    def visit_If(self, node: ast.If) -> None:
        if "__name__" not in self._text(node.test):  # the guard against a second import
            self._replace("condition", node.test, f"not ({self._text(node.test)})")
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._replace("condition", node.test, f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._exchange("mux", node.body, node.orelse)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._replace("condition", test, f"not ({self._text(test)})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        listed = node.value.elts if isinstance(node.value, ast.List) else []
        for index in range(len(listed)):
            self._leave_out("statement", listed, index)
        if not listed:
            self._replace("statement", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._replace("statement", node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            name = getattr(node.value.func, "attr", getattr(node.value.func, "id", ""))
            if name not in (*_SPOKEN, "__init__"):
                self._replace("statement", node, "pass")
        self.generic_visit(node)


def _is_type(node: ast.expr) -> bool:
    """Whether an expression is an alternative of a union of types."""
    return (isinstance(node, ast.Constant) and node.value is None) or (
        isinstance(node, ast.Name) and (node.id[0].isupper() or node.id in ("int", "str", "float", "bool", "list"))
    )
