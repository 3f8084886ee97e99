"""The tables of report.html: measured values, differences with their verdicts, published numbers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..metrics.compare import Comparison, comparison_notes, texts
from .tables import TITLES, Table, Value, letters, notes, ordered_metrics

_REFERENCE = Path(__file__).parent / "reference"
_MARKS = {"better": "▲", "worse": "▼"}


def results_table(table: Table, names: Mapping[str, str], comparisons: Sequence[Comparison]) -> str:
    """Rows are categories and their mean; a mean is marked only where the comparison decides.

    Args:
        table: What was measured.
        names: Of the weights, for reading.
        comparisons: Those of the table.
    """
    span = len(table.weights)
    head = "".join(f'<th class="first" scope="colgroup" colspan="{span}">{TITLES[m]}</th>' for m in table.metrics)
    letter = letters(table)
    second = "".join(f"<th{_first(w, table)} scope=col>{letter[w]}</th>" for _ in table.metrics for w in table.weights)
    columns = [(metric, weights) for metric in table.metrics for weights in table.weights]
    rows = ""
    for category in table.categories:
        cells = "".join(_cell(table.values.get((category, w, m), Value(None)), _first(w, table)) for m, w in columns)
        rows += f"<tr><th scope=row>{escape(category)}</th>{cells}</tr>"
    verdicts = {(c.metric, c.weights): c.verdict for c in comparisons}
    means = "".join(_cell(table.mean(w, m), _first(w, table), verdicts.get((m, w))) for m, w in columns)
    remarks = notes(table)
    if set(verdicts.values()) & set(_MARKS):
        baseline = escape(letter[comparisons[0].baseline])
        remarks.append(f"▲ better, ▼ worse than {baseline}: the 95 % interval of the difference excludes 0")
    legend = " · ".join(f"<b>{letter[w]}</b> {escape(names[w])}" for w in table.weights)
    return f"""<p>{legend if span > 1 else escape(names[table.weights[0]])}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Results on {escape(table.dataset)}"><table>
<thead><tr><th scope=col>category</th>{head}</tr>{f"<tr><th></th>{second}</tr>" if span > 1 else ""}</thead>
<tbody>{rows}</tbody>
<tfoot><tr><th scope=row>mean</th>{means}</tr></tfoot>
</table></div>{_remarks(remarks)}"""


def comparison_table(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> str:
    """Differences to the baseline with interval and verdict; empty where there is nothing to compare."""
    if not comparisons:
        return ""
    body = ""
    for weights in dict.fromkeys(c.weights for c in comparisons):
        body += f'<tr><th colspan=5 class="group" scope=rowgroup>{escape(names[weights])}</th></tr>'
        for comparison in comparisons:
            if comparison.weights == weights:
                difference, interval, verdict, count = texts(comparison)
                mark = _MARKS.get(verdict, "")
                body += (
                    f"<tr><th scope=row>{TITLES[comparison.metric]}</th><td>{difference}</td><td>{interval}</td>"
                    f'<td class="{verdict}">{mark} {verdict}</td><td>{count}</td></tr>'
                )
    baseline = escape(names[comparisons[0].baseline])
    return f"""<h3>Difference to {baseline}</h3>
<div class="scroll narrow" tabindex="0" role="region" aria-label="Difference to {baseline}"><table>
<thead><tr><th scope=col>metric</th><th scope=col>points</th><th scope=col>95 % interval</th>
<th scope=col>verdict</th><th scope=col>categories</th></tr></thead>
<tbody>{body}</tbody></table></div>{_remarks(comparison_notes(comparisons))}"""


def published_table(table: Table, names: Mapping[str, str]) -> str:
    """Published means for the data set, method and protocol, their sources named, above what was measured."""
    parts = []
    for path in sorted(_REFERENCE.glob("*.json")):
        reference = json.loads(path.read_text(encoding="utf-8"))
        rows = _published(reference, table)
        if rows:
            metrics = ordered_metrics(metric for values in rows.values() for metric in values)
            parts.append(_published_table(reference, rows, metrics, table, names))
    return "".join(parts)


def _published(reference: dict[str, Any], table: Table) -> dict[tuple[str, str], dict[str, float]]:
    """Values by (source, backbone) and metric."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for row in reference["rows"]:
        if (reference["dataset"], row["protocol"], row["method"]) == table.key:
            for variant, suffix in (("base", ""), ("spd", " + SPD")):
                if variant in row:
                    rows.setdefault((row["source"], row["backbone"] + suffix), {})[row["metric"]] = row[variant]
    return rows


def _published_table(
    reference: dict[str, Any],
    rows: Mapping[tuple[str, str], Mapping[str, float]],
    metrics: Sequence[str],
    table: Table,
    names: Mapping[str, str],
) -> str:
    head = "".join(f'<th class="first" scope=col>{TITLES[m]}</th>' for m in metrics)
    body = "".join(
        f'<tr><th scope=row>{escape(backbone)} <small class="soft">{escape(source)}</small></th>'
        + "".join(_cell(Value(100 * values[m] if m in values else None), ' class="first"') for m in metrics)
        + "</tr>"
        for (source, backbone), values in rows.items()
    )
    count = len(table.categories)
    measured = "".join(
        f'<tr><th scope=row>{escape(names[w])} <small class="soft">this page, {count} of 12 objects</small></th>'
        + "".join(_cell(table.mean(w, m), ' class="first"') for m in metrics)
        + "</tr>"
        for w in table.weights
    )
    used = {source for source, _ in rows}
    sources = ((key, source) for key, source in reference["sources"].items() if key in used)
    remarks = "".join(
        f'<p class="soft"><b>{escape(key)}</b>: {escape(source["title"])}. {escape(source["note"])}</p>'
        for key, source in sources
    )
    return f"""<h3>Beside published numbers</h3>
<p class="soft">Means over the 12 objects, for scale; settings differ, see the notes.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Published numbers"><table class="published">
<thead><tr><th scope=col>backbone</th>{head}</tr></thead>
<tbody>{body}</tbody><tfoot>{measured}</tfoot></table></div>{remarks}"""


def _cell(value: Value, attributes: str, verdict: str | None = None) -> str:
    number, _, spread = str(value).partition(" ")
    mark = f'<span class="{verdict}" title="{verdict}">{_MARKS[verdict]}</span> ' if verdict in _MARKS else ""
    spread = f" <small>{spread}</small>" if spread else ""
    hint = f' title="{escape(value.reason)}"' if value.reason else ""
    return f"<td{attributes}{hint}>{mark}{number}{spread}</td>"


def _first(weights: str, table: Table) -> str:
    return ' class="first"' if weights == table.weights[0] else ""


def _remarks(texts: Iterable[str]) -> str:
    return "".join(f'<p class="soft">{escape(text)}</p>' for text in texts)
