"""Every part of a ``distill:`` section at work in a stage, on small real nets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from drawn_tasks import draw_task_data
from pydantic import ValidationError
from slow import slow_if
from stage_chain import TRAIN, Chain, Ran, artifact, run_stage

from compress.data.dataset import DataSet, load_dataset
from compress.distill.terms import LEVEL_LOSSES, OUTPUT_LOSSES
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.checkpoint import foreign_names, load_checkpoint, save_checkpoint
from compress.models.inspect import conv_widths
from compress.pipeline.contract import Artifact
from compress.recipe.distillation import Distill
from compress.recipe.losses import DistillLoss
from compress.recipe.sections import TrainArguments
from compress.stages.distillation import term_specs

TEACHER = {"teachers": ["teacher"]}
CWD = {"kind": "cwd"}
LONG = {**TRAIN, "epochs": 3, "close_mosaic": 1}


def finetuned(chain: Chain, distill: dict[str, Any], tmp_path: Path, **changes: Any) -> Ran:
    """The chain's pruned net after a finetune with this section; ``base`` and ``teacher`` teach."""
    train = changes.pop("train", TRAIN)
    config = {"stage": "finetune", "train": train, "distill": {**TEACHER, **distill}, **changes}
    inputs = {"checkpoint": chain.checkpoint("prune")}
    for index, named in enumerate(config["distill"]["teachers"]):
        name = named["model"] if isinstance(named, dict) else named
        if name != "ema":
            inputs[f"teacher.{index}"] = chain.checkpoint(name)
    if "unlabeled" in distill:
        inputs["unlabeled"] = unhashed(Path(distill["unlabeled"]["images"]))
    return run_stage(config, inputs, chain.data, tmp_path / "stage")


def unhashed(path: Path) -> Artifact:
    """A folder, or a model yaml that ultralytics knows by name."""
    return Artifact(path, "0" * 64)


def losses_of(ran: Ran) -> dict[str, list[float]]:
    curves = ran.metrics["curves"]
    return {key.removeprefix("train/"): v for key, v in curves.items() if key.startswith("train/")}


def test_defects_8_12_13_the_student_keeps_its_structure_and_holds_nothing_of_the_teacher(
    chain: Chain, tmp_path: Path
) -> None:
    losses = [CWD, {"kind": "mgd"}, {"kind": "crosskd"}]
    ran = finetuned(chain, {"losses": losses}, tmp_path)
    file = ran.files["checkpoint"]
    student, parent = (load_checkpoint(f) for f in (file, chain.checkpoint("prune").path))
    assert conv_widths(student) == conv_widths(parent)
    assert student.state_dict().keys() == parent.state_dict().keys()
    assert foreign_names(file) == []
    assert not any(module._forward_hooks for module in student.modules())
    assert file.stat().st_size < 1.1 * chain.checkpoint("prune").path.stat().st_size
    assert all(value.dtype != torch.float16 for value in student.state_dict().values())


@pytest.mark.slow
def test_stock_ultralytics_takes_the_distilled_student(chain: Chain, tmp_path: Path) -> None:
    ran = finetuned(chain, {"losses": [CWD, {"kind": "bckd"}]}, tmp_path)
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('compress', 'export', 'bench')))\n"  # cannot be imported
        "from ultralytics import YOLO\n"
        "model = YOLO(sys.argv[1]).model\n"
        "print(sum(p.numel() for p in model.parameters()))\n"
    )
    command = [sys.executable, "-c", code, str(ran.files["checkpoint"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == ran.metrics["params"]


SECTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "levels with losses of their own": (
        {
            "losses": [
                {"kind": "mimic", "levels": [8], "weight": 0.3},
                {"kind": "cwd", "levels": [16, 32], "weight": 0.7},
            ]
        },
        {"kd_mimic", "kd_cwd"},
    ),
    "layers by number and the backbone": (
        {"losses": [{"kind": "at", "at": [4, "model.6"]}, {"kind": "at", "at": "backbone"}]},
        {"kd_at", "kd_at_2"},
    ),
    "schedules and temperatures": (
        {
            "losses": [
                {"kind": "kl", "temperature": {"start": 5, "drop": 2, "every": 1}},
                {"kind": "pkd", "schedule": "cosine", "final": 0.1},
                {"kind": "l2", "schedule": "linear"},
            ]
        },
        {"kd_kl", "kd_pkd", "kd_l2"},
    ),
    "two teachers with weights": (
        {
            "teachers": [{"model": "base", "weight": 1.0}, {"model": "teacher", "weight": 2.0}],
            "losses": [CWD, {"kind": "bckd"}],
        },
        {"kd_cwd", "kd_bckd"},
    ),
    "mean teacher": ({"teachers": ["ema"], "losses": [{"kind": "bce"}]}, {"kd_bce"}),
    "online teacher": (
        {"teachers": [{"model": "teacher", "online": True}], "losses": [{"kind": "bce"}]},
        {"kd_bce", "kd_teacher", "kd_mutual"},
    ),
    "mixing, clipping and gain": (
        {
            "losses": [CWD, {"kind": "objectness", "classes": "bce", "feature_nms": True}],
            "cutmix": 1.0,
            "difficulty": True,
            "soft_targets": {"smoothing": 0.1, "teacher": 0.3},
            "clip": 1.0,
            "gain": 2.0,
        },
        {"kd_cwd", "kd_objectness"},
    ),
}


SLOW = {name for name, (section, _) in SECTIONS.items() if section.keys() == {"losses"}}


@pytest.mark.parametrize("name", slow_if(SLOW, SECTIONS))
def test_a_section_trains_and_shows_its_losses(name: str, chain: Chain, tmp_path: Path) -> None:
    section, expected = SECTIONS[name]
    ran = finetuned(chain, section, tmp_path)
    losses = losses_of(ran)
    assert {key for key in losses if key.startswith("kd_")} == expected
    assert all(all(value > 0 for value in losses[key]) for key in expected - {"kd_bce"})
    shares = {k: v for k, v in ran.metrics["curves"].items() if k.startswith("gradient/")}
    assert sum(values[-1] for values in shares.values()) == pytest.approx(1.0)


def test_defect_16_each_loss_leaves_a_column_in_the_results(chain: Chain, tmp_path: Path) -> None:
    finetuned(chain, {"losses": [CWD, {"kind": "bckd"}]}, tmp_path)
    (table,) = (tmp_path / "stage" / "scratch").rglob("results.csv")
    header = table.read_text().splitlines()[0].split(",")
    assert {"train/kd_cwd", "train/kd_bckd", "gradient/labels", "gradient/cwd"} <= set(header)


def test_defect_15_an_optimizer_that_ignores_the_learning_rate_is_refused() -> None:
    with pytest.raises(ValidationError, match="optimizer"):
        TrainArguments.model_validate({"epochs": 1, "optimizer": "auto"})


def test_phases_learn_one_after_the_other(chain: Chain, tmp_path: Path) -> None:
    section = {
        "losses": [CWD, {"kind": "bce"}],
        "phases": [
            {"epochs": 1, "learn": ["features"], "lr": 0.001},
            {"epochs": 1, "learn": ["outputs"]},
            {"epochs": 1, "learn": ["labels"], "lr": 0.0001},
        ],
    }
    losses = losses_of(finetuned(chain, section, tmp_path, train=LONG))
    assert [value > 0 for value in losses["kd_cwd"]] == [True, False, False]
    assert [value > 0 for value in losses["kd_bce"]] == [False, True, False]


def test_teaching_can_stop_with_mosaic(chain: Chain, tmp_path: Path) -> None:
    section = {"losses": [{**CWD, "stop": "close_mosaic"}]}
    losses = losses_of(finetuned(chain, section, tmp_path, train=LONG))
    assert [value > 0 for value in losses["kd_cwd"]] == [True, True, False]


@pytest.fixture(scope="module")
def without(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Taught by labelled images alone."""
    return finetuned(chain, {"losses": [CWD]}, tmp_path_factory.mktemp("without"))


@pytest.mark.parametrize(
    "pseudo",
    [pytest.param(None, marks=pytest.mark.slow), {"confidence": 0.01, "iou": 0.6}],
)
def test_images_without_labels_teach_too(
    pseudo: dict[str, float] | None, without: Ran, chain: Chain, tmp_path: Path
) -> None:
    folder = chain.data.splits["val"][0].parent
    unlabeled = {"images": str(folder), "batch": 4, "pseudo_labels": pseudo}
    with_them = finetuned(chain, {"losses": [CWD], "unlabeled": unlabeled}, tmp_path)
    assert losses_of(with_them)["kd_cwd"] != losses_of(without)["kd_cwd"]
    assert {file.suffix for file in folder.iterdir()} == {
        file.suffix for file in chain.data.splits["train"][0].parent.iterdir()
    }


@pytest.mark.slow
def test_outputs_teach_under_quantization(chain: Chain, tmp_path: Path) -> None:
    config = {
        "stage": "qat",
        "train": {**TRAIN, "lr0": 0.001},
        "distill": {
            "losses": [{"kind": kind, "weight": 1e6} for kind in ("bckd", "ld", "crosskd")]
        },
    }
    inputs = {"checkpoint": chain.checkpoint("finetune"), "teacher.0": chain.checkpoint("base")}
    ran = run_stage(config, inputs, chain.data, tmp_path / "stage")
    shown = losses_of(ran)
    assert all(shown[name][0] > 0 for name in ("kd_bckd", "kd_ld", "kd_crosskd"))
    assert ran.files["ranges"].is_file()


@pytest.mark.slow
def test_a_base_is_distilled_while_it_is_trained(
    chain: Chain, net_yaml: Path, tmp_path: Path
) -> None:
    config = {"stage": "train", "train": TRAIN, "distill": {"losses": [CWD]}}
    inputs = {"weights": artifact(net_yaml), "teacher.0": chain.checkpoint("teacher")}
    ran = run_stage(config, inputs, chain.data, tmp_path / "stage")
    assert losses_of(ran)["kd_cwd"][0] > 0


# student, teacher, losses beside cwd and bckd
FAMILIES = [
    ("yolov5n.yaml", "yolov5s.yaml", ["ld"]),
    ("yolov9t.yaml", "yolov8n.yaml", ["ld"]),
    ("yolov10n.yaml", "yolov10n.yaml", ["ld"]),
    ("yolo11n.yaml", "yolov8n.yaml", ["crosskd"]),
    ("yolo12n.yaml", "yolo12n.yaml", []),
    ("yolo26n.yaml", "yolo26n.yaml", ["ciou", "l1"]),
    ("yolov8n-p2.yaml", "yolov8n.yaml", ["crosskd", "ld"]),
]


@pytest.mark.parametrize(
    ("student", "teacher", "more"),
    [
        pytest.param(*family, marks=[] if family[0] == "yolov8n-p2.yaml" else pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_families_learn_in_a_training(
    student: str, teacher: str, more: list[str], sample: DataSet, tmp_path: Path
) -> None:
    _train_and_look(student, teacher, ["cwd", "bckd", *more], sample, tmp_path)


@pytest.mark.parametrize(
    ("student", "teacher", "task", "more"),
    [
        ("yolo26n-seg.yaml", "yolo26n-seg.yaml", "segment", ["masks"]),
        *(
            pytest.param(*nets, marks=pytest.mark.slow)
            for nets in (
                ("yolov8n-seg.yaml", "yolo11n-seg.yaml", "segment", ["masks"]),
                ("yolov8n-pose.yaml", "yolov8n-pose.yaml", "pose", ["keypoints"]),
                ("yolo26n-pose.yaml", "yolo26n-pose.yaml", "pose", ["keypoints"]),
                ("yolov8n-obb.yaml", "yolo11n-obb.yaml", "obb", ["angle"]),
            )
        ),
    ],
)
def test_tasks_learn_in_a_training(
    student: str, teacher: str, task: str, more: list[str], tmp_path: Path
) -> None:
    data = load_dataset(draw_task_data(tmp_path / "data", task))
    _train_and_look(student, teacher, ["cwd", "bckd", *more], data, tmp_path)


def _train_and_look(
    student: str, teacher: str, kinds: list[str], data: DataSet, tmp_path: Path
) -> None:
    file = tmp_path / "teacher.pt"
    save_checkpoint(build_model(Path(teacher), data.names, 1, data.keypoint_shape), file)
    losses = [{"kind": kind} for kind in kinds]
    config = {"stage": "train", "train": TRAIN, "distill": {"losses": losses}}
    inputs = {"weights": unhashed(Path(student)), "teacher.0": artifact(file)}
    ran = run_stage(config, inputs, data, tmp_path / "stage")
    shown = losses_of(ran)
    assert all(shown[f"kd_{kind}"][0] > 0 for kind in kinds)
    assert load_checkpoint(ran.files["checkpoint"]).state_dict()


def test_losses_of_another_task_or_head_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="masks"):
        finetuned(chain, {"losses": [{"kind": "masks"}]}, tmp_path)


def _kinds() -> tuple[Any, ...]:
    return get_args(get_args(DistillLoss)[0])


KINDS = [get_args(kind.model_fields["kind"].annotation)[0] for kind in _kinds()]


@pytest.mark.parametrize("kind", KINDS)
def test_defect_7_every_kind_of_the_recipe_runs_its_own_loss(kind: str) -> None:
    """A name that is cut or misspelt on its way would run another loss, or none."""
    config = Distill.model_validate({"losses": [{"kind": kind}, {"kind": kind, "weight": 2.0}]})
    first, second = term_specs(config.losses)
    assert (first.name, second.name) == (kind, f"{kind}_2")
    assert (first.weight.value, second.weight.value) == (1.0, 2.0)
    assert kind in (LEVEL_LOSSES.keys() | OUTPUT_LOSSES.keys() | {"crosskd"})
    if kind in LEVEL_LOSSES:
        assert LEVEL_LOSSES[kind].__name__.lower().removeprefix("_") == kind
    elif kind in OUTPUT_LOSSES:
        assert OUTPUT_LOSSES[kind].__name__ == kind
