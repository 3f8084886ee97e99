"""docs/tables.py puts tables where their commands are; committed pages are up to date (tests/eval/report)."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = "<!-- python -m eval summary results/adapt_confirm --weights mobilenetv2_100.imagenet1k -->"


def test_old_table_is_replaced_and_the_rest_of_the_page_is_kept() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    page = f"before\n\n{COMMAND}\n\n|  | old |\n| --- | ---: |\n| `x` | 1 |\n\nafter\n\n| another | table |\n"
    new = script["TABLE"].sub(script["rendered"], page)
    assert new.startswith(f"before\n\n{COMMAND}\n\n|  | PaDiM image AUROC |")
    assert (
        "| `mobilenetv2_100.imagenet1k` | 75.2 ±0.2 | 13.5 ±0.5 | 76.9 ±0.7 | 20.8 ±0.2 |\n\nafter\n\n| another" in new
    )
    assert "old" not in new
    assert script["TABLE"].sub(script["rendered"], new) == new
