"""docs/imagenet_set.md: its rows are the catalog's and the recipes', and its hours those measured."""

import re
from pathlib import Path

import pytest

from spd_weights.catalog import load_catalog
from spd_weights.files import read_json
from train.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "imagenet_set.md").read_text(encoding="utf-8")


def rows(first_heading: str) -> list[list[str]]:
    table = PAGE.split(f"| row | {first_heading}", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def number(text: str) -> float:
    whole, third = re.fullmatch(r"(\d+)(⅓?)", text).groups()
    return int(whole) + (1 / 3 if third else 0)


def test_rows_are_the_planned_weights_with_the_epochs_and_batches_of_their_recipes() -> None:
    planned = {name for name, row in load_catalog().items() if row.status == "planned"}
    assert planned == {name for row in rows("ROW") for name in (row[0], f"{row[0]}_eta0")}
    for name, command, epochs, batch, *_ in rows("ROW"):
        recipe = command.split()[0]
        assert recipe in name
        architecture = re.search(r"--model\.arch (\S+)", command)
        assert name.startswith(f"{architecture[1] if architecture else 'resnet50'}_spd.")
        optim = RECIPES[recipe].optim
        assert (int(epochs), int(batch)) == (optim.epochs, optim.batch_size)


def test_passes_are_those_of_the_methods() -> None:
    base = {"simsiam": 2, "moco": 1 + 1 / 3, "simclr": 2, "supervised": 1}  # a forward pass alone is a third of one
    for _, command, _, _, passes, without in rows("ROW"):
        assert number(without) == pytest.approx(base[command.split()[0]])
        assert number(passes) == pytest.approx(base[command.split()[0]] + 2)  # the positive and the negative


def test_hours_are_those_measured() -> None:
    measured = {row["row"]: row for row in read_json(ROOT / "results" / "imagenet_hours" / "rows.json")["rows"]}
    epochs = {row[0]: int(row[2]) for row in rows("ROW")}
    total = 0.0
    for name, *hours in rows("8 GPUs"):
        rates = [measured[weight]["images_per_second"] for weight in (name, f"{name}_eta0")]
        of_both = [epochs[name] * 1_281_167 / rate / 3600 for rate in rates]
        assert [int(each) for each in hours] == [round(each / 8) for each in of_both] + [round(sum(of_both))]
        total += sum(of_both)
    assert {name for name, *_ in rows("8 GPUs")} == set(epochs)
    assert f"about {round(total, -1):.0f} GPU hours" in PAGE
