"""report.html: one file that shows what results.json and the stored figures say."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from spd_weights.files import read_json, write_text

from ..metrics.compare import COMPARISON, compare
from ..results import CELL, cell_folder, read_results
from .curves import curve_plots
from .html_tables import comparison_table, published_table, results_table
from .tables import Table, short_names, tables
from .text import write_tables

_HERE = Path(__file__).parent
_OPEN = 24  # categories of all tables whose figures are open at first; more are closed, so that tables can be found
_HOW = (
    "{seen} one square ({image_size} px; bicubic with antialiasing, nearest for masks). Pixel metrics are computed "
    "at that size over all test images, normal ones included. AP is average precision; the trapezoid under the same "
    "curve, which VisA's authors report, is in results.json too. AUPRO: 8-connected defect regions, false positive "
    "rate up to 0.3. "
    "PaDiM: maps smoothed with a Gaussian of sigma 4 px, image score is the map's maximum. Means are over "
    "the categories in which every weight has the metric."
)
_SEEN = {
    "square": "Images and masks are resized, without a crop, to",
    "short-crop": "A central square of 7/8 of the shorter side is cut from images and masks, and resized to",
}
_HOW_TWO_CLASS = (
    " The 2-class methods see {classifier_size} px (classifier) and {unet_size} px (U-Net, whose image score is its "
    "map's maximum), and are trained for {epochs} epochs, at least {min_steps} steps, of batches of {batch_size} at a "
    "learning rate of {lr:g} ({freeze} frozen): a fixed length, without a look at test images. Chance AP is the share "
    "of anomalies, so it differs between protocols."
)


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html, tables.md and tables.tex from `folder`/results.json and the cells' figures.

    Returns:
        The path of the page.

    Raises:
        SpdError: results.json is missing or damaged.
    """
    results = read_results(folder)
    comparisons = compare(results["rows"], _baseline(folder, results["rows"]))
    names = short_names(list(dict.fromkeys(row["weights"] for row in results["rows"])))
    shown = tables(results["rows"])
    parts = [_contents(shown)] if len(shown) > 2 else []
    few = sum(len(table.categories) for table in shown) <= _OPEN
    for number, table in enumerate(shown):
        parts.append(f'<h2 id="table-{number}">{escape(table.title)}</h2>')
        of_table = [c for c in comparisons if (c.dataset, c.protocol, c.method) == table.key]
        parts.append(results_table(table, names, of_table))
        parts.append(comparison_table(of_table, names))
        parts.append(published_table(table, names))
        parts += [_category(folder, table, category, names, results["rows"], few) for category in table.categories]
    parts.append(_measured(results, names))
    title = "Defect detection: " + " and ".join(names.values()) if len(names) <= 2 else "Defect detection"
    page = Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title or "Defect detection"),
        subtitle=f"Measured {escape(results['created'][:10])} on {escape(results['environment']['cpu'])}. Values in %.",
        body="\n".join(parts),
    )
    write_text(folder / "report.html", page)
    write_tables(folder, results["rows"], comparisons)
    return folder / "report.html"


def _contents(shown: Sequence[Table]) -> str:
    links = "".join(f'<li><a href="#table-{n}">{escape(table.title)}</a></li>' for n, table in enumerate(shown))
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _baseline(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """That of the last `compare`, as long as its weights are still there; else the first weights."""
    known = list(dict.fromkeys(row["weights"] for row in rows))
    path = folder / COMPARISON
    chosen = read_json(path).get("baseline") if path.is_file() else None
    return chosen if chosen in known else (known or [""])[0]


def _category(
    folder: Path, table: Table, category: str, names: dict[str, str], rows: Sequence[dict[str, Any]], opened: bool
) -> str:
    columns, curves = [], {}
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
        content = read_json(cell / CELL) if (cell / CELL).is_file() else {}
        curves[names[weights]] = content.get("curves", {})
        shown = _cell(cell, content) if content else '<p class="soft">Figures were not kept.</p>'
        columns.append(f'<section class="weight"><h4>{escape(names[weights])}</h4>{shown}</section>')
    return (
        f"<details{' open' if opened else ''}><summary><h3>{escape(category)}</h3></summary>"
        f'<div>{curve_plots(curves)}<div class="columns">{"".join(columns)}</div></div></details>'
    )


def _cell(cell: Path, content: dict[str, Any]) -> str:
    if "figures" not in content:  # nothing was measured
        return f'<p class="soft">{escape(content["rows"][0]["reason"])}</p>'
    colours = ""
    if content["heat_range"]:
        low, high = content["heat_range"]
        colours = f" Colours run from {low:.3g} (median of normal pixels) to {high:.3g} (99.9 % of pixels lie below)."
    vanished = content["vanished_masks"]
    note = f" {vanished} defects are smaller than a pixel at this size." if vanished else ""
    figures = "".join(_figure(cell, figure) for figure in content["figures"])
    strip = _strip(content["scores"], content["anomalous"])
    return (
        f'{strip}<div class="figures">{figures}</div>'
        f'<p class="soft">Ranked by {escape(content["ranked_by"])}.{colours}{note}</p>'
    )


def _figure(cell: Path, figure: dict[str, Any]) -> str:
    rank, image = figure["rank"], escape(figure["image"])
    found = f"map AP {100 * figure['localisation']:.0f} % · " if figure["localisation"] is not None else ""
    size = f'width="{figure["width"]}" height="{figure["height"]}" loading="lazy"'
    pictures = "".join(
        f'<img src="{_data_uri(cell / f"{rank}-{kind}.jpg")}" alt="{text} {image}" {size}>'
        for kind, text in (("photo", "photograph with the true outline:"), ("heat", "anomaly heat map over"))
        if (cell / f"{rank}-{kind}.jpg").is_file()
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


def _layers(about: dict[str, Any]) -> str:
    return f", feature maps {about['layers']}" if "layers" in about else ""


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
            f"<td>{escape(about.get('architecture', 'not recorded'))}{_layers(about)}</td>"
            f"<td>{digest[:16] if digest else 'none: no file'}</td>"
            f"<td>{sum(cells.values()):.0f} s for {len(cells)} on {escape(about.get('device', '?'))}</td></tr>"
        )
    how = _HOW.format(seen=_SEEN[config.get("resize", "square")], **config)
    how += _HOW_TWO_CLASS.format(**config) if "unet_size" in config else ""
    machine = escape(json.dumps({"config": config, "environment": results["environment"]}, indent=2))
    return f"""<h2>How this was measured</h2>
<p>{escape(how)}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Weights"><table class="words">
<thead><tr><th scope=col>weights</th><th scope=col>name</th><th scope=col>architecture</th><th scope=col>sha256</th>
<th scope=col>time</th></tr></thead><tbody>{body}</tbody></table></div>
<details><summary><h3>Configuration and environment</h3></summary>
<div><pre tabindex="0">{machine}</pre></div></details>"""
