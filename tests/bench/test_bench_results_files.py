"""Results survive being written and read, and what is damaged is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_results import result_of, samples_of

from bench.errors import BenchError
from bench.results.files import json_schema, read_result, write_result
from bench.results.schema import BenchResult

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "bench-schema.json"


@pytest.fixture
def result() -> BenchResult:
    return result_of({"base": samples_of(4.0), "small": samples_of(2.0, 1)})


def test_what_is_written_is_read(result: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "result.json"
    write_result(path, result)
    assert read_result(path) == result
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_reader_never_sees_half_a_file(
    result: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_result(path, result)
    before = path.read_bytes()

    def half(self: Path, text: str, **_: Any) -> None:
        with self.open("w") as file:
            file.write(text[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(BenchError, match="No space left on device"):
        write_result(path, {**result, "host": "board"})
    assert path.read_bytes() == before


def test_numbers_that_json_lacks_become_null(result: BenchResult, tmp_path: Path) -> None:
    result["device"]["trace"] = [{"seconds": 0.0, "soc_c": float("nan")}]
    write_result(tmp_path / "result.json", result)
    read = read_result(tmp_path / "result.json")
    assert read["device"]["trace"] == [{"seconds": 0.0, "soc_c": None}]


def test_writing_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pydantic'] = sys.modules['rich'] = None\n"
        "from pathlib import Path\n"
        "from bench.results.files import write_result\n"
        "write_result(Path(sys.argv[1]), {'schema': 2})\n"
    )
    path = tmp_path / "result.json"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert json.loads(path.read_text()) == {"schema": 2}


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(schema=1), "is of schema 1.* Measure again: compress bench"),
        (lambda r: r.update(schema=99), "is of schema 99; this version reads 2. Update"),
        (lambda r: r.update(schema=True), "is no bench result"),
        (lambda r: r.pop("schema"), "is no bench result"),
        (lambda r: r["rows"][1]["latency_ms"].update(p50="fast"), r"rows\.1\.latency_ms\.p50: "),
        (lambda r: r["rows"][0].pop("sha256"), r"rows\.0\.sha256: field required"),
        (lambda r: r.update(complete="yes"), "complete: input should be a valid boolean"),
        (lambda r: r["samples_ns"]["base"].append(1.5), r"samples_ns\.base\.200: "),
        (lambda r: r.update(rows=[]), "rows: there is none"),
        (lambda r: r["rows"][0].update(label="small"), "two have the same label"),
        (lambda r: r["samples_ns"].pop("small"), r"samples_ns\.small: there are none"),
        (lambda r: r["samples_ns"]["base"].pop(), "not of one length"),
        (lambda r: r["rows"][0].update(speedup_ci=[1.0]), r"rows\.0\.speedup_ci: it is no pair"),
        (lambda r: r["rows"][0]["latency_ms"].update(p50=0.0), "p50: it is not above 0"),
        (lambda r: r["rows"][0]["latency_ms"].update(p50=9.0), "not the median of samples_ns.base"),
        (lambda r: r["samples_ns"]["base"].__setitem__(0, 2**63), "beyond 64 bits"),
        (
            lambda r: r["device"].update(trace=[{"seconds": 0.0, "gpu_mhz": 1e16}]),
            r"device\.trace\.0\.gpu_mhz: it is not finite, or too large",
        ),
    ],
)
def test_damage_is_named_with_file_and_field(
    result: BenchResult, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "result.json"
    write_result(path, result)
    change(path, edit)
    with pytest.raises(BenchError, match=message) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}', b"[1]", b"null"]
)
def test_what_is_no_result_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"result\.json"):
        read_result(path)
    with pytest.raises(BenchError, match=r"nowhere\.json' cannot be read"):
        read_result(tmp_path / "nowhere.json")


def test_a_result_with_everything_that_can_be_measured_is_read(
    result: BenchResult, tmp_path: Path
) -> None:
    row = result["rows"][0]
    latency = row["latency_ms"]
    row["parts_ms"] = {"compute": latency}
    row["end_to_end"] = {
        "latency_ms": latency,
        "steps_ms": {"letterbox": 1.0},
        "images": 3,
        "boxes": 1.5,
    }
    row["map"] = {"val": {"map50": 0.8, "map50_95": 0.6}}
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result


def test_the_documented_schema_is_current() -> None:
    written = json.loads(SCHEMA_FILE.read_text())
    assert written == json_schema(), "python -m bench.results.files > docs/bench-schema.json"
    assert written["properties"]["schema"]["const"] == 2
    assert "samples_ns" in written["required"]
