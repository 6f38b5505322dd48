"""How far the bench can be believed, measured: its spread, other tools' times, its own cost.

``python docs/results/bench_trust.py repeat FILE ... --runtimes ...`` measures the same files in
several runs, one after the other; ``tools`` compares with a plain loop around ONNX Runtime's
``run`` and with OpenVINO's ``benchmark_app``, in turn; ``cost`` times the loop itself and a whole
command. Each writes ``bench_PART.json``, of which ``tables.py`` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.loop import Minimum, measure
from bench.run import bench_files
from bench.runtimes.onnxruntime import session_options
from bench.settings import Settings

HERE = Path(__file__).resolve().parent
_COMMAND = "compress bench FILE --min-seconds 0 --min-count 1"
_CALL_NS = 1_000_000  # the inference that the loop's cost is compared with


def repeat(given: argparse.Namespace) -> dict[str, Any]:
    """The same files in ``runs`` runs: the median of each, its ratio to the first, and noise."""
    settings = Settings(min_seconds=given.seconds, min_count=64, energy_seconds=0)
    runs = [
        bench_files(given.files, settings, runtimes=given.runtimes, labels=given.labels)
        for _ in range(given.runs)
    ]
    rows = []
    for index, label in enumerate(given.labels):
        p50 = [run["rows"][index]["latency_ms"]["p50"] for run in runs]
        ratios = [run["rows"][index]["speedup"] for run in runs]
        rows.append(
            {
                "file": label,
                "runtime": runs[0]["rows"][index]["runtime"],
                "p50_ms": p50,
                "p50_spread": max(p50) / min(p50) - 1,
                "cv": [run["rows"][index]["latency_ms"]["cv"] for run in runs],
                "ratio": ratios,
                "ratio_spread": max(ratios) / min(ratios) - 1,
                "ratio_ci": [run["rows"][index]["speedup_ci"] for run in runs],
                "rounds": [run["rows"][index]["latency_ms"]["count"] for run in runs],
            }
        )
    machine = runs[0]["machine"]["cpu"]
    return {
        "columns": ["File", "Runtime", "p50 ms, each run", "Spread", "CV", "Speed", "Spread"],
        "rows": [
            [
                row["file"],
                row["runtime"],
                _listed(row["p50_ms"], "{:.1f}"),
                f"{row['p50_spread']:.1%}",
                _listed(row["cv"], "{:.1%}"),
                _listed(row["ratio"], "{:.3f}x"),
                f"{row['ratio_spread']:.1%}",
            ]
            for row in rows
        ],
        "facts": f"{len(runs)} runs one after the other, {given.seconds:g} s each and at least 64 "
        f"rounds, all files in turn, one thread, 640 px, {machine}. Spread: largest over smallest, "
        "less one.",
        "results": rows,
        "warnings": [run["warnings"] for run in runs],
        "interference": [run["interference"] for run in runs],
    }


def _listed(values: Sequence[float], style: str) -> str:
    return ", ".join(style.format(value) for value in values)


def tools(given: argparse.Namespace) -> dict[str, Any]:
    """Pairs of ours and another tool's median, in turn, on the same file."""
    rows = []
    for path in given.files:
        others: dict[str, tuple[str, Callable[[], float]]] = {
            "openvino": ("benchmark_app", lambda path=path: _benchmark_app(path, given.seconds))
        }
        if path.suffix == ".onnx":
            others["onnxruntime"] = (
                "a loop around session.run, as onnxruntime_perf_test's",
                lambda path=path: _plain_loop(path, given.seconds),
            )
        for runtime, (tool, other) in others.items():
            pairs = [(_ours(path, runtime, given.seconds), other()) for _ in range(given.runs)]
            ratios = [ours / theirs for ours, theirs in pairs]
            row = {"file": path.name, "runtime": runtime, "tool": tool, "pairs_ms": pairs}
            rows.append({**row, "ratio": median(ratios), "ratios": ratios})
            print(rows[-1], file=sys.stderr)
    return {
        "columns": ["File", "Runtime", "Other tool", "Ours ms", "Its ms", "Ours / its"],
        "rows": [
            [
                row["file"],
                row["runtime"],
                row["tool"],
                f"{median(ours for ours, _ in row['pairs_ms']):.2f}",
                f"{median(theirs for _, theirs in row['pairs_ms']):.2f}",
                f"{row['ratio']:.3f}",
            ]
            for row in rows
        ],
        "facts": f"Medians of {given.runs} pairs, ours and the other tool in turn, "
        f"{given.seconds:g} s each, one thread, 640 px.",
        "results": rows,
    }


def cost(given: argparse.Namespace) -> dict[str, Any]:
    """What the loop adds to a call of 1 ms, and how long a whole command takes."""
    rounds = 20000
    began = time.perf_counter_ns()
    samples = measure({"nothing": lambda: None}, warmup=Minimum(0, 1), minimum=Minimum(0, rounds))
    whole = (time.perf_counter_ns() - began) / rounds
    inside = median(samples["nothing"])
    command = [sys.executable, "-m", "compress", "bench", str(given.files[0]), "--json"]
    command += ["--min-seconds", "0", "--min-count", "1", "--energy-seconds", "0"]
    walls, others = [], []
    for _ in range(given.runs):
        began = time.perf_counter_ns()
        done = subprocess.run(command, check=True, capture_output=True)
        walls.append((time.perf_counter_ns() - began) / 1e9)
        [samples_ns] = json.loads(done.stdout)["samples_ns"].values()
        others.append(walls[-1] - sum(samples_ns) / 1e9 - Settings().warmup_seconds)
    return {
        "columns": ["What", "Measured"],
        "rows": [
            ["the loop's part of a sample", f"{inside:.0f} ns, {inside / _CALL_NS:.3%} of 1 ms"],
            ["the loop around a call", f"{whole:.0f} ns, {whole / _CALL_NS:.3%} of 1 ms"],
            [f"`{_COMMAND}`, start to exit", f"{median(walls):.2f} s"],
            [
                "of it neither warm-up nor measuring: start, loading the file, report",
                f"{median(others):.2f} s",
            ],
        ],
        "facts": f"Medians; {rounds} calls that do nothing; {given.runs} commands on "
        f"{given.files[0].name}.",
        "results": {
            "inside_ns": inside,
            "around_ns": whole,
            "command_seconds": walls,
            "other_seconds": others,
        },
    }


def _ours(path: Path, runtime: str, seconds: float) -> float:
    settings = Settings(min_seconds=seconds, energy_seconds=0)
    [row] = bench_files([path], settings, runtimes=[runtime])["rows"]
    return float(row["latency_ms"]["p50"])


def _plain_loop(path: Path, seconds: float) -> float:
    import onnxruntime

    options = session_options(onnxruntime, 1)
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    values = np.random.default_rng(0).random(entry.shape, dtype=np.float32)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        session.run(None, {entry.name: values})
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def _benchmark_app(path: Path, seconds: float) -> float:
    tool = Path(sys.executable).with_name("benchmark_app")
    options = ["-d", "CPU", "-hint", "none", "-api", "sync", "-nireq", "1", "-nstreams", "1"]
    options += ["-nthreads", "1", "-t", str(round(seconds))]
    # it changes types of inputs that look like images unless told otherwise
    options += ["-ip", "f32"]
    done = subprocess.run(
        [str(tool), "-m", str(path), *options], capture_output=True, text=True, check=True
    )
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    if found is None:
        raise SystemExit(f"benchmark_app says no median:\n{done.stdout}")
    return float(found[1])


def main() -> None:
    """Measure one part and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["repeat", "tools", "cost"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--runtimes", nargs="+")
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    found = {"repeat": repeat, "tools": tools, "cost": cost}[given.part](given)
    (HERE / f"bench_{given.part}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
