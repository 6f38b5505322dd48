"""Write the measured tables into the documents, from the runs recorded beside this file.

``python docs/results/tables.py`` rewrites the part between ``<!-- table: NAME -->`` and
``<!-- end -->`` in each document from ``NAME.json``: a run's ``run.json``, see ``--record``, or a
table of a script beside this file. ``--check`` only says whether a document is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.report.tables import Table, summary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "recipes" / "README.md",
    ROOT / "docs" / "pruning.md",
    ROOT / "docs" / "distillation.md",
    ROOT / "docs" / "int8.md",
    ROOT / "docs" / "bench.md",
)
_MARKED = re.compile(r"(<!-- table: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# what only the machine that ran it knows, or what is too long to keep
_DROPPED = {"recipe_file", "curves", "channels", "path", "from"}


def record(run_folder: Path, name: str) -> None:
    """Keep the figures of a finished run as ``NAME.json``."""
    content = json.loads((run_folder / "run.json").read_text())
    content["data"] = {"images": content["data"]["images"], "names": content["data"]["names"]}
    content["overrides"] = [_without_folder(override) for override in content["overrides"]]
    text = json.dumps(_without(content), indent=1)
    (HERE / f"{name}.json").write_text(text + "\n")


def _without_folder(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={Path(value).name}" if "/" in value else override


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _DROPPED}
    return [_without(item) for item in value] if isinstance(value, list) else value


def markdown(table: Table) -> str:
    """A table as Markdown, the result's row in bold."""
    titles = " | ".join(column.full_title for column in table.columns)
    rules = "|".join("--:" if column.numeric else "---" for column in table.columns)
    rows = [" | ".join(_cell(c, row.stands_out) for c in row.cells) for row in table.rows]
    return (
        "".join(f"| {line} |\n" for line in (titles,))
        + f"|{rules}|\n"
        + "".join(f"| {row} |\n" for row in rows)
    )


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells that are text already, as Markdown."""
    lines = [columns, ["-"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str, bold: bool) -> str:
    return f"**{text}**" if bold and text else text


def described(name: str) -> str:
    """Table and protocol of one recorded run, or of one of the scripts beside this file."""
    content = json.loads((HERE / f"{name}.json").read_text())
    if "columns" in content:
        return f"{plain_table(content['columns'], content['rows'])}\n{content['facts']}\n"
    bench = next((s["metrics"]["bench"] for s in content["stages"] if s["stage"] == "bench"), {})
    threads = bench.get("settings", {}).get("threads")
    machine = bench.get("machine", {}).get("cpu", "")
    images = ", ".join(f"{count} {split}" for split, count in content["data"]["images"].items())
    command = " ".join(["compress run", f"recipes/{content['recipe']}.yaml", *content["overrides"]])
    facts = (
        f"{content['imgsz']} px, seed {content['seed']}, images: {images}. "
        f"Latency: ONNX Runtime, {threads} thread, {machine}, all files interleaved in one run. "
        "Weights chosen on val."
    )
    return f"{markdown(summary(content))}\n{facts}\n\n```\n{command}\n```\n"


def rewritten(text: str) -> str:
    """A document with all its tables made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{described(m[2])}\n{m[3]}", text)


def main() -> int:
    """Exit 1 if ``--check`` finds a document out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--record", nargs=2, metavar=("RUN_FOLDER", "NAME"))
    arguments = parser.parse_args()
    if arguments.record:
        record(Path(arguments.record[0]), arguments.record[1])
    stale = [path for path in DOCUMENTS if path.read_text() != rewritten(path.read_text())]
    for path in stale:
        if arguments.check:
            sys.stderr.write(f"{path.name} is out of date: run `make tables`\n")
        else:
            path.write_text(rewritten(path.read_text()))
    return int(bool(stale) and arguments.check)


if __name__ == "__main__":
    raise SystemExit(main())
