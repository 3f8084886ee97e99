"""The results as Markdown and LaTeX, to be pasted into a document."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spd_weights.files import write_text

from ..metrics.compare import Comparison, comparison_notes, texts
from .tables import TITLES, Table, Value, notes, short_names, tables

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "−": "$-$",
        "±": r"$\pm$",
        "·": r"$\cdot$",
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
    }
)
_MARKS = {"better": " ▲", "worse": " ▼"}


def write_tables(folder: Path, rows: Sequence[dict[str, Any]], comparisons: Sequence[Comparison]) -> None:
    """Write `folder`/tables.md and `folder`/tables.tex: one table a (data set, protocol, method), in percent.

    Rows are categories and weights, then the means; a mean is marked only where the comparison decides.
    """
    names = short_names(list(dict.fromkeys(row["weights"] for row in rows)))
    parts = []
    for table in tables(rows):
        of_table = [c for c in comparisons if (c.dataset, c.protocol, c.method) == table.key]
        parts.append((table, of_table, names))
    write_text(folder / "tables.md", "\n".join(_markdown(*part) for part in parts))
    preamble = "% \\usepackage{booktabs}, and amssymb for the marks of the comparison\n"
    write_text(folder / "tables.tex", preamble + "\n".join(_latex(*part) for part in parts))


def _markdown(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> str:
    header, body, means = _lines(table, comparisons, names)
    lines = [_row(header), "| --- | --- |" + " ---: |" * len(table.metrics), *map(_row, [*body, *means])]
    remarks = "".join(f"\n{remark}\n" for remark in _remarks(table, comparisons, names))
    text = f"### {table.title} (%)\n\n" + "\n".join(lines) + "\n" + remarks
    if comparisons:
        text += "\n" + _row(["metric", "weights", "points", "95 % interval", "verdict", "categories"])
        text += "\n| --- | --- | ---: | --- | --- | --- |\n"
        text += "\n".join(_row([TITLES[c.metric], names[c.weights], *texts(c)]) for c in comparisons) + "\n"
    return text


def _latex(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> str:
    header, body, means = _lines(table, comparisons, names)

    def lines(rows: Sequence[Sequence[str]]) -> list[str]:
        return [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in rows]

    caption = " ".join([f"{table.title} (%).", *(f"{text}." for text in _remarks(table, comparisons, names))])
    columns = "ll" + "r" * len(table.metrics)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines([header]),
            r"\midrule",
            *lines(body),
            r"\midrule",
            *lines(means),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _lines(
    table: Table, comparisons: Sequence[Comparison], names: dict[str, str]
) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, a line a (category, weights), and a line of means a weight."""
    verdicts = {(c.metric, c.weights): _MARKS.get(c.verdict, "") for c in comparisons}
    body = [
        [category, names[w], *(str(table.values.get((category, w, m), Value(None))) for m in table.metrics)]
        for category in table.categories
        for w in table.weights
    ]
    means = [
        ["mean", names[w], *(str(table.mean(w, m)) + verdicts.get((m, w), "") for m in table.metrics)]
        for w in table.weights
    ]
    return ["category", "weights", *(TITLES[metric] for metric in table.metrics)], body, means


def _remarks(table: Table, comparisons: Sequence[Comparison], names: dict[str, str]) -> list[str]:
    remarks = notes(table) + comparison_notes(comparisons)
    if any(c.verdict in _MARKS for c in comparisons):
        baseline = names[comparisons[0].baseline]
        remarks.append(f"▲ better, ▼ worse than {baseline}: the 95 % interval of the difference excludes 0")
    return remarks


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
