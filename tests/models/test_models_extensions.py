"""What an extension may do to a training, and what it survives together with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from killed_training import Killed, KilledAt, killed
from slow import slow
from small_extension import LOSS, Mimic, hooks_of
from small_nets import IMGSZ, Silent
from torch import Tensor, nn
from ultralytics.engine import trainer as stock
from ultralytics.engine.trainer import BaseTrainer

from compress.errors import CompressError
from compress.models.trainer import ResumableTrainer, Training, TrainingJob, train

ARGUMENTS = {"epochs": 3, "batch": 8, "optimizer": "AdamW", "lr0": 0.002, "close_mosaic": 1}
BATCHES = 2  # an epoch
# steps whose length is the rate times the norm of the gradient
PLAIN_SGD = {
    "epochs": 1,
    "batch": 16,
    "optimizer": "SGD",
    "lr0": 0.01,
    "momentum": 1e-9,
    "weight_decay": 0.0,
    "warmup_epochs": 0,
}


@pytest.fixture
def job(data_yaml: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    def make(folder: str = "scratch", data: Path = data_yaml, **arguments: object) -> TrainingJob:
        given = {**ARGUMENTS, **arguments}
        return TrainingJob(data, 16, IMGSZ, 0, "cpu", 0, tmp_path / folder, given)

    return make


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, list[float]]]]:
    """Epoch and learning rates of every step that was taken."""
    taken: list[tuple[int, list[float]]] = []
    step = ResumableTrainer.optimizer_step

    def watched(trainer: ResumableTrainer) -> None:
        taken.append((trainer.epoch, [group["lr"] for group in trainer.optimizer.param_groups]))
        step(trainer)

    monkeypatch.setattr(ResumableTrainer, "optimizer_step", watched)
    return taken


def run(net: nn.Module, job: TrainingJob, *extensions: Mimic, progress: Any = None) -> Training:
    return train(deepcopy(net), job, progress or Silent(), "test", extensions)


def assert_resumes(
    net: nn.Module, job: Callable[..., TrainingJob], make: Callable[[], Mimic], *batches: int
) -> None:
    """A run that is killed at these batches ends where a straight one does."""
    straight = run(net, job("straight"), make())
    for batch in batches:
        with pytest.raises(Killed):
            run(net, job(), make(), progress=KilledAt(batch, killed))
    resumed = run(net, job(), make())
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=0)
    assert resumed.curves == straight.curves


class Rated(Mimic):
    """Learns at rates of its own in the first and the third epoch."""

    def learning_rate(self, epoch: int) -> float | None:
        return {0: 0.004, 2: 0.0005}.get(epoch)

    def curves(self) -> dict[str, float]:
        return {"mimic/epoch": float(self.epoch)}


class ShortOfMemory(Rated):
    """The second batch is too large, once."""

    failed = False

    def loss(self, images: Tensor) -> Tensor:
        if len(self.batches) == 2 and not self.failed:
            self.failed = True
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(images)


@pytest.mark.parametrize("extension", [Rated, *slow(ShortOfMemory)])
def test_an_epoch_may_have_a_learning_rate_of_its_own(
    extension: type[Rated],
    net: nn.Module,
    job: Callable[..., TrainingJob],
    steps: list[tuple[int, list[float]]],
) -> None:
    job_ = job(warmup_epochs=1, warmup_bias_lr=0.1, lrf=0.1)
    with pytest.raises(Killed):
        run(net, job_, extension(), progress=KilledAt(_in_epoch_2(extension), killed))
    resumed = run(net, job_, extension())
    assert {len(rates) for _, rates in steps} == {4}  # three stock groups and the projector's
    batches = 4 if extension is ShortOfMemory else 2  # halved
    warm = [rates for epoch, rates in steps if epoch == 0][-1]
    share = (batches - 1) / batches
    weight = pytest.approx(share * 0.004)
    bias = pytest.approx(0.1 + share * (0.004 - 0.1))
    assert warm == [weight, weight, bias, weight]
    scheduled = 0.002 * ((1 - 1 / 3) * 0.9 + 0.1)
    assert [rates for epoch, rates in steps if epoch == 1][-1] == [pytest.approx(scheduled)] * 4
    assert [rates for epoch, rates in steps if epoch == 2][-1] == [pytest.approx(0.0005)] * 4
    assert resumed.curves["mimic/epoch"] == [0.0, 1.0, 2.0]


def _in_epoch_2(extension: type[Rated]) -> int:
    return 1 + 4 + 1 if extension is ShortOfMemory else BATCHES + 1


def test_a_batch_that_does_not_fit_is_halved(
    net: nn.Module, job: Callable[..., TrainingJob], steps: list[tuple[int, list[float]]]
) -> None:
    student, extension, seen = deepcopy(net), ShortOfMemory(), []
    begin = extension.prepare

    def prepare(model: nn.Module, device: torch.device, imgsz: int) -> None:
        begin(model, device, imgsz)
        seen.append((extension.projector, deepcopy(extension.projector)))

    extension.prepare = prepare  # type: ignore[method-assign]
    train(student, job(), Silent(), "test", [extension])
    assert [shape[0] for shape in extension.batches] == [8, 8] + [4] * 12
    # a step a batch: no gradient is carried over an epoch, at whose end a state is saved
    assert [epoch for epoch, _ in steps] == [0] + [0] * 4 + [1] * 4 + [2] * 4
    ((projector, start),) = seen
    assert extension.projector is projector
    assert not torch.equal(projector.weight, start.weight)
    assert hooks_of(student) == []
    assert extension.closed == 1


def test_a_halved_batch_stays_halved_after_a_kill(
    net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    straight = run(net, job("straight"), ShortOfMemory())
    with pytest.raises(Killed):
        run(net, job(), ShortOfMemory(), progress=KilledAt(1 + 4 + 1, killed))
    extension = Rated()  # now memory would suffice
    resumed = run(net, job(), extension)
    assert {shape[0] for shape in extension.batches} == {4}
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=0)
    assert resumed.curves == straight.curves


class NeverFits(Mimic):
    def loss(self, images: Tensor) -> Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_memory_that_never_suffices_is_told(
    net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    with pytest.raises(CompressError, match="with batches of 1 images: CUDA out of memory"):
        run(net, job(), NeverFits())


class Counting(Mimic):
    """Only the mAP of these epochs means something."""

    def counts(self, epoch: int) -> bool:
        return epoch not in (0, 2, 3)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The mAPs that validation finds, one an epoch."""
    fitness: list[float] = []

    def validate(trainer: BaseTrainer) -> tuple[dict[str, float], float]:
        value = fitness[trainer.epoch]
        trainer.best_fitness = max(value, trainer.best_fitness or 0.0)
        return {"metrics/mAP50-95(B)": value}, value

    monkeypatch.setattr(BaseTrainer, "validate", validate)
    return fitness


def test_epochs_that_do_not_count_are_never_the_best(
    net: nn.Module, job: Callable[..., TrainingJob], found: list[float]
) -> None:
    found += [0.9, 0.2]
    training = run(net, job(epochs=2), Counting())
    assert training.curves["metrics/mAP50-95(B)"] == found
    state = torch.load(job().folder / "state.pt")
    assert state["best_fitness"] == 0.2
    torch.testing.assert_close(training.weights, dict(state["ema"]), rtol=0, atol=0)


@pytest.mark.slow
def test_epochs_that_do_not_count_do_not_exhaust_patience(
    net: nn.Module, job: Callable[..., TrainingJob], found: list[float]
) -> None:
    found += [0.9, 0.5, 0.9, 0.9, 0.4, 0.3, 0.2, 0.1]  # two after the best of those that count

    def patient(folder: str = "scratch") -> TrainingJob:
        return job(folder, epochs=8, patience=2)

    # in epoch 2, before any counts, and in epoch 4, between two that do not
    assert_resumes(net, patient, Counting, BATCHES + 1, 3 * BATCHES + 1)
    state = torch.load(job().folder / "state.pt")
    assert state["epoch"] == 5
    assert state["best_fitness"] == 0.5


class Clipped(Mimic):
    """Gradients far larger than any norm allows."""

    def __init__(self, norm: float | None) -> None:
        super().__init__(weight=1e5)
        self.norm = norm

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        super().prepare(model, device, imgsz)
        self.start = deepcopy(self.projector)

    def largest_norm(self) -> float | None:
        return self.norm

    def moved(self) -> float:
        return distance(self.start, self.projector)


def distance(one: nn.Module, other: nn.Module) -> float:
    """Euclidean, between all weights of two modules."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(torch.stack([(a - b).square().sum() for a, b in pairs]).sum().detach().sqrt())


@pytest.mark.parametrize(("norm", "length"), [(None, 10.0), (0.5, 0.5)])
def test_student_and_extension_are_clipped_each_on_its_own(
    norm: float | None, length: float, net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    student, extension = deepcopy(net), Clipped(norm)
    train(student, job(**PLAIN_SGD), Silent(), "test", [extension])
    assert distance(student, net) == pytest.approx(0.01 * length, rel=1e-3)
    assert extension.moved() == pytest.approx(0.01 * length, rel=1e-3)


def test_mixed_precision_reaches_the_extension(
    net: nn.Module, job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaler(device: str, enabled: bool) -> torch.amp.GradScaler:
        assert enabled
        return torch.amp.grad_scaler.GradScaler("cpu", init_scale=2.0**12)

    class Precise(Clipped):
        def loss(self, images: Tensor) -> Tensor:
            kinds.add(self.features[0].dtype)
            return super().loss(images)

    kinds: set[torch.dtype] = set()
    monkeypatch.setattr(stock, "check_amp", lambda model: True)  # it would download a net
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    extension = Precise(0.5)
    training = run(net, job(**PLAIN_SGD, amp=True), extension)
    assert kinds == {torch.bfloat16}
    assert extension.moved() == pytest.approx(0.01 * 0.5, rel=1e-3)  # unscaled, then clipped
    assert {w.dtype for w in training.weights.values() if w.is_floating_point()} == {torch.float32}


def test_without_extensions_a_step_is_the_stock_one(
    net: nn.Module, job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = run(net, job(epochs=1))
    monkeypatch.setattr(ResumableTrainer, "optimizer_step", BaseTrainer.optimizer_step)
    theirs = run(net, job("stock", epochs=1))
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=0, atol=0)


class MoreImages(Mimic):
    """Adds two images of whole numbers to each batch."""

    def extend_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        assert batch["img"].dtype == torch.uint8
        return {**batch, "img": torch.cat([batch["img"], 255 - batch["img"][:2]])}

    def loss(self, images: Tensor) -> Tensor:
        assert images.max() <= 1.0
        return super().loss(images)


@pytest.mark.slow
def test_added_images_are_scaled_with_the_others(
    net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    made: list[MoreImages] = []

    def make() -> Mimic:
        made.append(MoreImages())
        return made[-1]

    def scaled(folder: str = "scratch") -> TrainingJob:
        return job(folder, multi_scale=0.5)

    assert_resumes(net, scaled, make, BATCHES + 1)
    straight = made[0].batches
    assert {shape[0] for shape in straight} == {10}
    assert len({shape[2] for shape in straight}) > 1
    assert {shape[2] for shape in straight} <= {32, 64, 96}


@pytest.mark.slow
def test_rectangular_batches_are_trained_on(
    net: nn.Module, data_yaml: Path, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    data = tmp_path / "wide" / data_yaml.name
    shutil.copytree(data_yaml.parent, data.parent, ignore=shutil.ignore_patterns("*.cache"))
    for path in sorted((data.parent / "images" / "train").iterdir())[:8]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (96, 48)))
    made: list[Mimic] = []

    def make() -> Mimic:
        made.append(Mimic())
        return made[-1]

    def rectangular(folder: str = "scratch") -> TrainingJob:
        return job(folder, data, rect=True)

    assert_resumes(net, rectangular, make, BATCHES + 1)
    assert len({shape[2:] for shape in made[0].batches}) == 2


class Breaks(Mimic):
    """NaN in the second batch of the second epoch; or finite there, with an infinite gradient."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def loss(self, images: Tensor) -> Tensor:
        value = super().loss(images)
        if len(self.batches) != BATCHES + 2:
            return value
        return value * float("nan") if self.how == "loss" else (value - value.detach()).sqrt()


@pytest.fixture(scope="module")
def straight(
    _settled: nn.Module, data_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Training:
    """What nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight")
    job = TrainingJob(data_yaml, 16, IMGSZ, 0, "cpu", 0, folder, ARGUMENTS)
    return run(_settled, job, Mimic())


@pytest.mark.parametrize(
    ("how", "words"), [("loss", f"the loss '{LOSS}' became nan"), ("slope", "the gradient became")]
)
def test_a_training_that_breaks_in_an_epoch_goes_on_from_the_one_before(
    how: str, words: str, net: nn.Module, straight: Training, job: Callable[..., TrainingJob]
) -> None:
    student = deepcopy(net)
    with pytest.raises(CompressError, match=rf"{words}.* in epoch 2 of 3.*goes on from epoch 2"):
        train(student, job(), Silent(), "test", [Breaks(how)])
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert torch.load(job().folder / "state.pt")["epoch"] == 0
    resumed = run(net, job(), Mimic())
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=0)


class BadlyClosed(Mimic):
    def close(self) -> None:
        super().close()
        raise RuntimeError("cannot close")


def test_every_extension_is_closed_on_every_way_out(
    net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    student, first, second = deepcopy(net), Mimic(), Mimic()
    with pytest.raises(Killed):
        train(student, job(), KilledAt(1, killed), "test", [first, second])
    assert (first.closed, second.closed, hooks_of(student)) == (1, 1, [])
    with pytest.raises(RuntimeError, match=r"nowhere\.yaml"):  # before anything has begun
        train(student, job(data=tmp_path / "nowhere.yaml"), Silent(), "test", [first, second])
    assert (first.closed, second.closed, student.criterion) == (2, 2, None)
    bad = BadlyClosed()
    with pytest.raises(RuntimeError, match="cannot close"):
        train(student, job(epochs=1), Silent(), "test", [first, bad])
    assert (first.closed, bad.closed, hooks_of(student)) == (3, 1, [])
    assert student.criterion is None
