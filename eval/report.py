"""report.html: one file that shows what results.json and the stored figures say."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from eval.results import CELL, cell_folder, read_results
from eval.tables import METRICS, TITLES, Table, Value, letters, notes, short_names, tables
from spd_weights.files import read_json, write_text

_HERE = Path(__file__).parent
_HOW = (
    "Images and masks are resized to one square ({image_size} px; bicubic with antialiasing, nearest for "
    "masks), nothing is cropped. Pixel metrics are computed at that size over all test images, normal ones "
    "included. AP is average precision. AUPRO: 8-connected defect regions, false positive rate up to 0.3. "
    "PaDiM: maps smoothed with a Gaussian of sigma 4 px, image score is the map's maximum. Means are over "
    "the categories in which every weight has the metric."
)


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from `folder`/results.json and the cells' figures.

    Returns:
        The path of the page.

    Raises:
        SpdError: results.json is missing or damaged.
    """
    results = read_results(folder)
    names = short_names(list(dict.fromkeys(row["weights"] for row in results["rows"])))
    parts = []
    for table in tables(results["rows"]):
        parts.append(f"<h2>{escape(table.dataset)} · {escape(table.protocol)} · {escape(table.method)}</h2>")
        parts.append(_results_table(table, names))
        parts.append(_published(table))
        parts += [_category(folder, table, category, names, results["rows"]) for category in table.categories]
    parts.append(_measured(results, names))
    title = "Defect detection: " + " and ".join(names.values()) if len(names) <= 2 else "Defect detection"
    page = Template((_HERE / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title or "Defect detection"),
        subtitle=f"Measured {escape(results['created'][:10])} on {escape(results['environment']['cpu'])}. Values in %.",
        body="\n".join(parts),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _results_table(table: Table, names: dict[str, str]) -> str:
    span = len(table.weights)
    head = "".join(f'<th class="first" scope="colgroup" colspan="{span}">{TITLES[m]}</th>' for m in METRICS)
    letter = letters(table)
    second = "".join(f"<th{_first(w, table)} scope=col>{letter[w]}</th>" for _ in METRICS for w in table.weights)
    rows = []
    for category in table.categories:
        values = {(w, m): table.values.get((category, w, m), Value(None)) for w in table.weights for m in METRICS}
        rows.append(f"<tr><th scope=row>{escape(category)}</th>{_cells(values, table)}</tr>")
    means = {(w, m): table.mean(w, m) for w in table.weights for m in METRICS}
    remarks = "".join(f'<p class="soft">{escape(note)}</p>' for note in notes(table))
    legend = " · ".join(f"<b>{letter[w]}</b> {escape(names[w])}" for w in table.weights)
    return f"""<p>{legend if span > 1 else escape(names[table.weights[0]])}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Results on {escape(table.dataset)}"><table>
<thead><tr><th scope=col>category</th>{head}</tr>{f"<tr><th></th>{second}</tr>" if span > 1 else ""}</thead>
<tbody>{"".join(rows)}</tbody>
<tfoot><tr><th scope=row>mean</th>{_cells(means, table)}</tr></tfoot>
</table></div>{remarks}"""


def _cells(values: dict[tuple[str, str], Value], table: Table) -> str:
    cells = []
    for metric in METRICS:
        known = [v.mean for w in table.weights if (v := values[w, metric]).mean is not None]
        for weights in table.weights:
            value = values[weights, metric]
            best = len(known) > 1 and value.mean == max(known) != min(known)
            number, _, spread = str(value).partition(" ")
            text = f'<span class="best">{number}</span>' if best else number
            text += f" <small>{spread}</small>" if spread else ""
            hint = f' title="{escape(value.reason)}"' if value.reason else ""
            cells.append(f"<td{_first(weights, table)}{hint}>{text}</td>")
    return "".join(cells)


def _first(weights: str, table: Table) -> str:
    return ' class="first"' if weights == table.weights[0] else ""


def _published(table: Table) -> str:
    """Published numbers for the data set, method and protocol; each row names its source."""
    parts = []
    for path in sorted((_HERE / "reference").glob("*.json")):
        reference = json.loads(path.read_text(encoding="utf-8"))
        of_table = (reference["dataset"], table.protocol, table.method)
        rows: dict[tuple[str, str, str], dict[str, float]] = {}
        for row in reference["rows"]:
            if of_table == (table.dataset, row["protocol"], row["method"]):
                for variant in ("base", "spd"):
                    if variant in row:
                        rows.setdefault((row["source"], row["backbone"], variant), {})[row["metric"]] = row[variant]
        if not rows:
            continue
        body = "".join(
            f"<tr><th scope=row>{escape(backbone)}{' + SPD' if variant == 'spd' else ''}"
            f' <small class="soft">{escape(source)}</small></th>'
            + "".join(f'<td class="first">{Value(100 * v[m]) if m in v else "–"}</td>' for m in METRICS)
            + "</tr>"
            for (source, backbone, variant), v in rows.items()
        )
        head = "".join(f'<th class="first" scope=col>{TITLES[m]}</th>' for m in METRICS)
        remarks = "".join(
            f'<p class="soft"><b>{escape(key)}</b>: {escape(source["title"])}. {escape(source["note"])}</p>'
            for key, source in reference["sources"].items()
            if key in {source for source, _, _ in rows}
        )
        parts.append(
            f"""<div class="scroll" tabindex="0" role="region" aria-label="Published numbers"><table>
<caption>Published means over the 12 objects, for scale; settings differ, see the notes</caption>
<thead><tr><th scope=col>backbone</th>{head}</tr></thead>
<tbody>{body}</tbody></table></div>{remarks}"""
        )
    return "".join(parts)


def _category(folder: Path, table: Table, category: str, names: dict[str, str], rows: Sequence[dict[str, Any]]) -> str:
    columns = []
    for weights in table.weights:
        seeds = [
            row["seed"]
            for row in rows
            if (row["weights"], row["dataset"], row["category"], row["protocol"], row["method"])
            == (weights, table.dataset, category, table.protocol, table.method)
        ]
        if not seeds:
            continue
        key = {"weights": weights, "dataset": table.dataset, "category": category}
        key |= {"protocol": table.protocol, "method": table.method, "seed": min(seeds)}
        cell = cell_folder(folder, key)
        shown = _cell(cell) if (cell / CELL).is_file() else '<p class="soft">Figures were not kept.</p>'
        columns.append(f'<section class="weight"><h4>{escape(names[weights])}</h4>{shown}</section>')
    return (
        f"<details open><summary><h3>{escape(category)}</h3></summary>"
        f'<div><div class="columns">{"".join(columns)}</div></div></details>'
    )


def _cell(cell: Path) -> str:
    content = read_json(cell / CELL)
    low, high = content["heat_range"]
    vanished = content["vanished_masks"]
    note = f" {vanished} defects are smaller than a pixel at this size." if vanished else ""
    figures = "".join(_figure(cell, figure) for figure in content["figures"])
    strip = _strip(content["scores"], content["anomalous"])
    return (
        f'{strip}<div class="figures">{figures}</div>'
        f'<p class="soft">Ranked by {escape(content["ranked_by"])}. Colours run from {low:.3g} (median of '
        f"normal pixels) to {high:.3g} (99.9 % of pixels lie below).{note}</p>"
    )


def _figure(cell: Path, figure: dict[str, Any]) -> str:
    rank, image = figure["rank"], escape(figure["image"])
    found = f"map AP {100 * figure['localisation']:.0f} % · " if figure["localisation"] is not None else ""
    size = f'width="{figure["width"]}" height="{figure["height"]}" loading="lazy"'
    pictures = "".join(
        f'<img src="{_data_uri(cell / f"{rank}-{kind}.jpg")}" alt="{text} {image}" {size}>'
        for kind, text in (("photo", "photograph with the true outline:"), ("heat", "anomaly heat map over"))
    )
    return (
        f'<figure><div class="pair">{pictures}</div><figcaption><b>{rank}</b> · {escape(figure["kind"])} · {found}'
        f"score above {100 * figure['higher_than_normals']:.0f} % of normal images · {image}</figcaption></figure>"
    )


def _strip(scores: Sequence[float], anomalous: Sequence[bool]) -> str:
    """Image scores as ticks on one scale: normal images above, anomalous ones below."""
    low, high = min(scores), max(scores)
    width = (high - low) or 1.0
    rows = []
    for name, wanted in (("normal", False), ("anomalous", True)):
        chosen = [s for s, a in zip(scores, anomalous, strict=True) if a == wanted]
        ticks = "".join(f"M{8 + 984 * (s - low) / width:.0f} 3V19" for s in chosen)
        label = f"Scores of {len(chosen)} {name} images, from {min(chosen):.3g} to {max(chosen):.3g}"
        rows.append(
            f'<span class="{name}">{name}</span><svg class="{name}" viewBox="0 0 1000 22" '
            f'preserveAspectRatio="none" role="img" aria-label="{label}"><path d="{ticks}"/></svg>'
        )
    return f'<div class="strip">{"".join(rows)}</div>'


def _data_uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _measured(results: dict[str, Any], names: dict[str, str]) -> str:
    config, rows = results["config"], results["rows"]
    body = ""
    for weights, name in names.items():
        own = [row for row in rows if row["weights"] == weights]
        cells = {(r["dataset"], r["category"], r["protocol"], r["method"], r["seed"]): r["seconds"] for r in own}
        about = config["weights"].get(weights, {})
        digest = own[0]["weights_sha256"]
        body += (
            f"<tr><th scope=row>{escape(name)}</th><td>{escape(weights)}</td>"
            f"<td>{escape(about.get('architecture', 'not recorded'))}, feature maps {about.get('layers', '')}</td>"
            f"<td>{digest[:16] if digest else 'none: no file'}</td>"
            f"<td>{sum(cells.values()):.0f} s for {len(cells)} on {escape(about.get('device', '?'))}</td></tr>"
        )
    machine = escape(json.dumps({"config": config, "environment": results["environment"]}, indent=2))
    return f"""<h2>How this was measured</h2>
<p>{escape(_HOW.format(image_size=config["image_size"]))}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Weights"><table class="words">
<thead><tr><th scope=col>weights</th><th scope=col>name</th><th scope=col>architecture</th><th scope=col>sha256</th>
<th scope=col>time</th></tr></thead><tbody>{body}</tbody></table></div>
<details><summary><h3>Configuration and environment</h3></summary>
<div><pre tabindex="0">{machine}</pre></div></details>"""
