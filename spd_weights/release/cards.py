"""Model cards, rendered from training.json and results.json alone.

Facts that the record lacks are rendered as "not recorded", missing evaluations as "Not measured".
"""

import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

import timm
import torch
from huggingface_hub import EvalResult, ModelCardData

from spd_weights.catalog import START_KEYS
from spd_weights.checks import CHART
from spd_weights.release import differences
from spd_weights.release.results import markdown, model_index

PAPER_ID = "arXiv:2207.14315"
UNKNOWN = "not recorded"

_PREVIEW = """
Training views, one row per image; the columns are named at the top.

![A sheet of training views](preview.png)
"""
_METHODS = {"simsiam": "SimSiam", "moco": "MoCo", "simclr": "SimCLR", "supervised": "Supervised", "adapt": "adapted"}


def tag(training: Mapping[str, Any]) -> str:
    """Form a tag in timm's style: the method, the data, and `eta0` without SPD (η is the paper's SPD weight)."""
    data = re.sub(r"[^a-z0-9]+", "_", str(_data(training).get("name") or "unknown").lower()).strip("_")
    data = {"imagenet_1k": "in1k", "ilsvrc_imagenet_1k": "in1k"}.get(data.removeprefix("hf_"), data)
    suffix = "_eta0" if training.get("spd_weight") == 0 else ""
    return f"{training.get('method') or 'unknown'}_{data}{suffix}"


def title(training: Mapping[str, Any]) -> str:
    """Describe the weights in one line."""
    method = training.get("method")
    weight = training.get("spd_weight")
    how = _METHODS.get(str(method), str(method or "unknown method"))
    spd = f"with SPD (η = {weight:g})" if weight else "without SPD"
    if weight is None:
        spd = "SPD weight not recorded"
    data = _data(training).get("name") or UNKNOWN
    return f"{training.get('architecture', UNKNOWN)}, {how} {spd}, on {data}"


def start(training: Mapping[str, Any]) -> dict[str, str]:
    """Provenance of the weights that training started from: `START_KEYS` as far as recorded; empty if random."""
    init = str(training.get("init") or "none")
    recorded = training.get("start") or {}
    return {} if init == "none" else {"weights": init, **{key: recorded[key] for key in START_KEYS if key in recorded}}


def render(
    training: Mapping[str, Any],
    results: Mapping[str, Any] | None = None,
    *,
    repo: str | None = None,
    name: str | None = None,
    weights_sha256: str | None = None,
    preview: bool = False,
) -> str:
    """Render a card: YAML metadata and Markdown.

    Args:
        training: The content of training.json.
        results: The content of results.json, or None if nothing was evaluated.
        repo: `owner/name` on the Hub, or None before publication.
        name: The catalog name of weights bundled with this package, else None.
        weights_sha256: Digest of model.safetensors. It tells these weights' results, shown first, from others',
            shown beside them. None treats every result as theirs.
        preview: Whether a preview.png with training views lies beside the card.

    Returns:
        The text of README.md; the same input gives the same text.
    """
    template = resources.files("spd_weights.release").joinpath("card_template.md").read_text(encoding="utf-8")
    body = Template(template).substitute(
        title=title(training),
        summary=_summary(training),
        measured=_opening(results, weights_sha256),
        image_size=_known(training.get("image_size")),
        mean=_known(training.get("mean")),
        std=_known(training.get("std")),
        **_loading(repo, name),
        **_anomalib(str(training.get("architecture"))),
        preview=_PREVIEW if preview else "",
        data=_data_section(training),
        recipe=_recipe(training),
        command=_known(training.get("command")),
        compute=_compute(training),
        final=_final(training),
        results=markdown(results, weights_sha256),
        health=_health(training),
    )
    return f"---\n{_metadata(training, model_index(results, weights_sha256)).to_yaml()}\n---\n{body}"


def _metadata(training: Mapping[str, Any], measured: list[EvalResult]) -> ModelCardData:
    name = str(_data(training).get("name") or "")
    base = str(training.get("init") or "")
    return ModelCardData(
        library_name="timm",
        # The Hub's model-index needs a name, and is left out without results.
        model_name=title(training) if measured else None,
        eval_results=measured or None,
        pipeline_tag="image-feature-extraction",
        # "unknown" is the Hub's own identifier for an unstated licence.
        license=training.get("licence") or "unknown",
        # Both fields accept Hub ids only.
        datasets=[name.removeprefix("hf:").split(":")[0]] if name.startswith("hf:") else None,
        base_model=base.removeprefix("hf-hub:").split("@")[0] if base.startswith("hf-hub:") else None,
        tags=[
            "timm", "image-feature-extraction", "anomaly-detection", "self-supervised", "spot-the-difference",
            PAPER_ID.lower(),
        ],
    )  # fmt: skip


def _summary(training: Mapping[str, Any]) -> str:
    weight = training.get("spd_weight")
    what = f"A `{training.get('architecture', UNKNOWN)}` backbone for timm, without classifier."
    if weight is None:
        return f"{what} Whether SPD was used is {UNKNOWN}."
    if weight == 0:
        return (
            f"{what} It was trained **without** SPot-the-Difference (SPD), as the control for the same recipe with SPD."
        )
    return (
        f"{what} It was trained with SPot-the-Difference (SPD), a regulariser that makes the features of an image "
        "differ from those of the same image with a small blended-in patch."
    )


def _opening(results: Mapping[str, Any] | None, weights_sha256: str | None) -> str:
    """The differences to the start, as a table and a chart; empty if they were not computed."""
    entries = differences.own(results, weights_sha256)
    if not entries:
        return ""
    chart = f"![Bars of the differences in the table]({CHART})"
    return f"\n{differences.table(entries)}\n\n{differences.note(entries)}\n\n{chart}\n"


def _data_section(training: Mapping[str, Any]) -> str:
    data = _data(training)
    return "\n".join(
        [
            f"- Training data: {_known(data.get('name'))}, {_number(data.get('images'))} images",
            f"- Licence of the data: {_known(data.get('licence'))}",
            f"- Licence of these weights: {training.get('licence') or 'unknown (none stated by the publisher)'}",
        ]
    )


def _recipe(training: Mapping[str, Any]) -> str:
    lines = {
        "Method": training.get("method"),
        "SPD weight η": training.get("spd_weight"),
        "Starting point": training.get("init"),
        "Image size": training.get("image_size"),
        "Global batch": training.get("global_batch_size"),
        "Steps": training.get("steps"),
        "Epochs": training.get("epochs"),
        "Images seen": training.get("images_seen"),
        "Seed": training.get("seed"),
    }
    listed = "\n".join(f"- {name}: {_number(value)}" for name, value in lines.items())
    return f"{listed}{_start_section(training)}\n\n`training.json` holds the resolved configuration. The command:"


def _start_section(training: Mapping[str, Any]) -> str:
    """Where the starting weights come from, below the recipe's list; empty for a random start."""
    facts = start(training)
    if not facts:
        return ""
    labels = {"source": "Source", "conversion": "Conversion", "licence": "Licence", "sha256": "sha256"}
    lines = [f"- {label}: {facts.get(key, UNKNOWN)}" for key, label in labels.items()]
    if "command" in facts:
        lines.append(f"- Fetch the source: `{facts['command']}`")
    listed = "\n".join(lines)
    return f"\n\nThe starting weights, `{facts['weights']}`:\n\n{listed}"


def _compute(training: Mapping[str, Any]) -> str:
    machine = training.get("environment") or {}
    versions = machine.get("packages") or {}
    seconds = training.get("seconds")
    hardware = ", ".join(machine.get("gpus") or []) or machine.get("cpu")
    return "\n".join(
        [
            f"- Time: {UNKNOWN if seconds is None else _duration(seconds)}",
            f"- Processes: {_number(training.get('processes'))}",
            f"- Hardware: {_known(hardware)}",
            f"- Software: {_known(', '.join(f'{name} {version}' for name, version in versions.items()))}",
            f"- Finished: {_known(training.get('created'))}",
        ]
    )


def _final(training: Mapping[str, Any]) -> str:
    final = training.get("final") or {}
    if not final:
        return f"The losses are {UNKNOWN}."
    rows = "\n".join(f"| {name} | {_number(value)} |" for name, value in final.items())
    return f"| quantity | value |\n| --- | ---: |\n{rows}"


def _health(training: Mapping[str, Any]) -> str:
    """The feature health check as a table, with the start's values beside them if they are recorded."""
    stages, started = (
        {str(stage.get("stage")): stage for stage in training.get(key) or []} for key in ("health", "start_health")
    )
    if not stages:
        return f"The feature health check is {UNKNOWN}."
    head = ["stage", "RMS", "cosine", *(["RMS of the start", "cosine of the start"] if started else [])]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, stage in stages.items():
        values = [side.get(key) for side in (stage, started.get(name, {})) for key in ("rms", "cosine")]
        cells = ["–" if value is None else f"{value:.4f}" for value in values[: len(head) - 1]]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _loading(repo: str | None, name: str | None) -> dict[str, str]:
    if name is not None:
        pin = "The file is part of the package spd-weights, so no network is needed."
        return {"imports": "import spd_weights  # registers the name\nimport timm", "source": name, "pin": pin}
    pin = (
        "Plain timm is enough. Append `@<commit sha>` to the name to pin the revision. Without the Hub, use the name "
        "`local-dir:<folder of this file>`."
    )
    return {"imports": "import timm", "source": f"hf-hub:{repo or '<owner>/<name>'}", "pin": pin}


def _anomalib(architecture: str) -> dict[str, object]:
    """The stages that PaDiM and PatchCore read: strides 4, 8 and 16, or all stages if there are none of those."""
    unknown: dict[str, object] = dict.fromkeys(("padim_layers", "patchcore_layers", "n_features"), UNKNOWN)
    if not timm.is_model(architecture):
        return unknown
    try:
        with torch.device("meta"):
            backbone: Any = timm.create_model(architecture, features_only=True)
        stages = backbone.feature_info.get_dicts()
    except Exception:  # an architecture without stages, or one that cannot be built on the meta device
        return unknown
    padim = [stage for stage in stages if stage["reduction"] in (4, 8, 16)] or stages
    return {
        "padim_layers": [stage["module"] for stage in padim],
        "patchcore_layers": [stage["module"] for stage in padim if stage["reduction"] > 4],
        "n_features": min(100, sum(stage["num_chs"] for stage in padim)),
    }


def _data(training: Mapping[str, Any]) -> Mapping[str, Any]:
    data: Mapping[str, Any] = training.get("data") or {}
    return data


def _known(value: object) -> str:
    return UNKNOWN if value is None or value == "" else str(value)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else _known(value)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{seconds / 60:.1f} min"
