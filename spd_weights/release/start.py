"""The weights that training starts from: facts about them for the training record, and so for the card."""

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache

from spd_weights import golden
from spd_weights.catalog import Row, find
from spd_weights.checks import CONFIG, WEIGHTS
from spd_weights.errors import SpdError
from spd_weights.files import read_json, sha256
from spd_weights.release.results import public_name


def starting_point(init: str, backbone: Any, image_size: int) -> dict[str, Any]:
    """Describe the weights that a run starts from, before its first step.

    Args:
        init: Their name, as `--model.init` has it.
        backbone: A headless timm model that holds them, on the CPU.
        image_size: Side of the training images in pixels.

    Returns:
        Two facts of the training record: `start` (`catalog.START_KEYS`, as far as known) and `start_health`
        (`golden.health`). Empty if the start is random.
    """
    if init == "none":
        return {}
    cfg = backbone.pretrained_cfg
    start = _facts(init, cfg["architecture"])
    at_size = {**cfg, "input_size": (cfg["input_size"][0], image_size, image_size)}
    return {
        "start": {key: value for key, value in start.items() if value},
        "start_health": golden.health(backbone, {"pretrained_cfg": at_size}),
    }


def _facts(init: str, architecture: str) -> dict[str, str | None]:
    name = architecture if init == "timm" else init
    if name.startswith("hf-hub:"):
        return _of_repository(name.removeprefix("hf-hub:"))
    if row := _row(name):
        where = f"https://huggingface.co/{row.repo}, commit {row.revision}" if row.repo else "bundled with spd-weights"
        return {
            "weights": row.name, "source": where, "licence": row.licence, "sha256": row.sha256,
            "command": f"spd-weights pull {row.name}",
        }  # fmt: skip
    if cfg := timm.get_pretrained_cfg(name) if timm.is_model(name) else None:
        name = f"{cfg.architecture}.{cfg.tag}"
        facts = _of_repository(str(cfg.hf_hub_id)) if cfg.hf_hub_id else {"source": str(cfg.url)}
        command = f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\""
        return {**facts, "weights": name, "licence": cfg.license, "command": command}
    return _of_folder(Path(name.removeprefix("local-dir:")))


def _row(name: str) -> Row | None:
    try:
        return find(name)
    except SpdError:
        return None


def _of_repository(name: str) -> dict[str, str | None]:
    repo, _, revision = name.partition("@")
    cached = try_to_load_from_cache(repo, WEIGHTS, revision=revision or None)
    at = f" --revision {revision}" if revision else ""
    return {
        "weights": f"hf-hub:{name}",
        "source": f"https://huggingface.co/{repo}" + (f", revision {revision}" if revision else ""),
        "sha256": sha256(Path(cached)) if isinstance(cached, str) else None,
        "command": f"hf download {repo}{at}",
    }


def _of_folder(folder: Path) -> dict[str, str | None]:
    """Facts of a local export; its source stays unknown, because a path says nothing to others."""
    config = read_json(folder / CONFIG)
    return {
        "weights": public_name(f"local-dir:{folder.resolve()}"),
        "licence": config.get("pretrained_cfg", {}).get("license"),
        "sha256": sha256(folder / WEIGHTS),
    }
