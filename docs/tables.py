"""Render the tables of README.md, docs/ and results/ again from the committed results.

    python docs/tables.py

Each `<!-- python -m eval summary … -->` makes the table below it. A test fails if a table is out of date.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"<!-- python -m (eval summary .*?) -->\n\n(?:\|.*\n)+")


def main() -> None:
    """Replace every table, and name the pages that changed."""
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*/README.md"))]:
        text = page.read_text(encoding="utf-8")
        if (new := TABLE.sub(rendered, text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))


def rendered(block: re.Match[str]) -> str:
    """The comment with the table that its command prints."""
    command = [sys.executable, "-m", *shlex.split(block[1])]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"{block[0].splitlines()[0]}\n\n{table}"


if __name__ == "__main__":
    main()
