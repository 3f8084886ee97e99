"""The results as Markdown and LaTeX tables, to be pasted into a document."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from spd_weights.files import write_text

from ..metrics.compare import Comparison
from ..metrics.metrics import TITLES
from .comparison import comparison_notes, comparison_texts
from .tables import HEADERS, MARKS, Table, tables, weights_names

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        "–": "--",
        "−": "$-$",
        "±": r"$\pm$",
        "·": r"$\cdot$",
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
    }
)
_MARKDOWN = str.maketrans({"|": r"\|", "`": r"\`", "*": r"\*", "\n": " "})


def write_tables(folder: Path, rows: Sequence[dict[str, Any]], comparisons: Sequence[Comparison]) -> None:
    """Write `folder`/tables.md and `folder`/tables.tex: one table per (data set, protocol, method), in percent.

    One row per category and weight, then one row of means per weight. A mean is marked only where the
    comparison decides.
    """
    names = weights_names(rows)
    parts = [(table, [c for c in comparisons if c.key == table.key], names) for table in tables(rows)]
    write_text(folder / "tables.md", "\n".join(_markdown(*part) for part in parts))
    preamble = "% \\usepackage{booktabs}, and amssymb for the marks of the comparison\n"
    write_text(folder / "tables.tex", preamble + "\n".join(_latex(*part) for part in parts))


def _markdown(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> str:
    header, body, means = _lines(table, comparisons, names)
    lines = [_row(header), "| --- | --- |" + " ---: |" * len(table.columns), *map(_row, [*body, *means])]
    remarks = "".join(f"\n{_plain(remark)}\n" for remark in _remarks(table, comparisons, names))
    text = f"### {_plain(table.title)} (%)\n\n" + "\n".join(lines) + "\n" + remarks
    if comparisons:
        rows = [_row([TITLES[c.metric], names[c.weights], *comparison_texts(c)]) for c in comparisons]
        header = ["metric", "weights", "points", "95 % interval", "verdict", "categories"]
        text += "\n".join(["", _row(header), "| --- | --- | ---: | --- | --- | --- |", *rows, ""])
    return text


def _latex(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> str:
    header, body, means = _lines(table, comparisons, names)

    def lines(rows: Sequence[Sequence[str]]) -> str:
        return "\n".join(" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in rows)

    caption = " ".join([f"{table.title} (%).", *(f"{text}." for text in _remarks(table, comparisons, names))])
    return rf"""\begin{{table}}
\caption{{{caption.translate(_LATEX)}}}
\begin{{tabular}}{{ll{"r" * len(table.columns)}}}
\toprule
{lines([header])}
\midrule
{lines(body)}
\midrule
{lines(means)}
\bottomrule
\end{{tabular}}
\end{{table}}
"""


def _lines(
    table: Table, comparisons: Sequence[Comparison], names: dict[str, str]
) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, one line per (category, weights), and one line of means per weight."""
    verdicts = {(c.metric, c.weights): f" {MARKS[c.verdict]}" for c in comparisons if c.verdict in MARKS}
    body = [
        [category, names[w], *(str(table.value(category, w, m)) for m in table.columns)]
        for category in table.categories
        for w in table.weights
    ]
    means = [
        ["mean", names[w], *(str(table.mean(w, m)) + verdicts.get((m, w), "") for m in table.columns)]
        for w in table.weights
    ]
    return ["category", "weights", *(HEADERS[column] for column in table.columns)], body, means


def _remarks(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> list[str]:
    remarks = table.notes() + comparison_notes(comparisons)
    if any(c.verdict in MARKS for c in comparisons):
        baseline = names[comparisons[0].baseline]
        remarks.append(f"▲ better, ▼ worse than {baseline}: the 95 % interval of the difference excludes 0")
    return remarks


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Escape what Markdown or HTML in it would interpret."""
    return escape(text, quote=False).translate(_MARKDOWN)
