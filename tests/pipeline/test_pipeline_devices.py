"""A recipe may name several GPUs: all train, the first does the rest."""

from __future__ import annotations

import pytest
from pipeline_fakes import Desk, recipe

from compress.errors import RecipeError
from compress.pipeline.contract import Context
from compress.pipeline.keys import device_kind
from compress.pipeline.preflight import device_faults


@pytest.mark.parametrize(("given", "device"), [("0,1", "0,1"), ("2, 0", "2,0"), ("0", "0")])
def test_several_gpus_may_be_named(given: str, device: str) -> None:
    assert recipe(device=given).device == device


@pytest.mark.parametrize(("given", "words"), [("1,1", "twice"), ("cpu,0", "'cpu', or the number")])
def test_each_of_them_is_another_gpu(given: str, words: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=words):
        recipe(device=given)


@pytest.mark.parametrize(("device", "count", "lacks"), [("0,1", 2, 0), ("1,0,2", 2, 1)])
def test_all_of_them_must_be_there(
    device: str, count: int, lacks: int, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    faults = device_faults(desk.job(recipe(device=device)))
    assert len(faults) == lacks
    assert all("numbered 0 to 1." in fault.message for fault in faults)


def test_their_number_changes_a_result() -> None:
    assert device_kind("0,1") == device_kind("3,2") != device_kind("0") == device_kind("1")


@pytest.mark.parametrize(("device", "first"), [("1,0", "1"), ("0", "0"), ("cpu", "cpu")])
def test_the_first_does_what_one_can_do(desk: Desk, device: str, first: str) -> None:
    folder, data = desk.folder, desk.job().data
    context = Context(data, 64, 0, device, 0, folder, folder, folder, desk.lines)
    assert context.first_device == first
