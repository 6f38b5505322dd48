"""The command line. Thin: it reads options, calls the pipeline, prints results.

Results go to stdout, progress and faults to stderr. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress import __version__, output
from compress.commands.bench import app as bench
from compress.commands.bundle import bundle
from compress.commands.engine import engine
from compress.commands.predict import predict
from compress.errors import CompressError, GateError
from compress.faults import Session, guarded

if TYPE_CHECKING:
    from compress.pipeline.job import Job, Place
    from compress.pipeline.plan import Selection
    from compress.recipe import LoadedRecipe

app = typer.Typer(
    help="Make a trained YOLO detector several times faster: one recipe, one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped one")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Change the recipe: data=my.yaml imgsz=320"),
]
Out = Annotated[Path | None, typer.Option(help="Run folder [default: runs/RECIPE]")]
Cache = Annotated[Path | None, typer.Option(help="Cache [default: .cache beside the run folder]")]
Start = Annotated[str, typer.Option("--from", help="Begin here; what is before must be cached")]
Until = Annotated[str, typer.Option(help="End after this stage")]
Force = Annotated[
    list[str] | None, typer.Option(help="Run this stage even if it is cached; repeatable")
]
Download = Annotated[bool, typer.Option("--download", help="Let missing weights and data be got")]
Trust = Annotated[
    bool, typer.Option("--trust-modules", help="Let the Python file under `modules:` be run")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress")]


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a fault")] = False,
) -> None:
    context.obj = Session(debug=debug)
    if version:
        typer.echo(f"compress {__version__}")
        raise typer.Exit


@app.command("run")
@guarded
def run_recipe(
    context: typer.Context,
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    cache: Cache = None,
    start: Start = "",
    until: Until = "",
    force: Force = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan")] = False,
    download: Download = False,
    trust_modules: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe. Cached stages are not run again; a run that was killed goes on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    selection = _selection(start, until, force)
    loaded, place = _loaded(recipe, overrides, out, cache)
    if dry_run:
        _show_plan(loaded, place, selection, download, trust_modules, as_json, quiet)
        return
    with output.stdout_for_results():
        job = _prepare(loaded, place.cache, download, trust_modules)
    context.obj.folder = place.run
    ran, missed = _run(job, place, selection, quiet)
    output.show_run(place.run, ran, as_json)
    if missed:
        raise missed


@app.command("plan")
@guarded
def plan_recipe(
    context: typer.Context,
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    cache: Cache = None,
    start: Start = "",
    until: Until = "",
    force: Force = None,
    download: Download = False,
    trust_modules: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show which stages are cached, which would run, and why."""
    loaded, place = _loaded(recipe, overrides, out, cache)
    selection = _selection(start, until, force)
    _show_plan(loaded, place, selection, download, trust_modules, as_json, quiet)


@app.command()
@guarded
def validate(
    context: typer.Context,
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    cache: Cache = None,
    recipe_only: Annotated[
        bool, typer.Option("--recipe-only", help="Do not look for weights and data")
    ] = False,
    download: Download = False,
    trust_modules: Trust = False,
    as_json: Json = False,
) -> None:
    """Check a recipe, then the weights, data and labels that it names. Nothing is run."""
    loaded, place = _loaded(recipe, overrides, out, cache)
    stages = [stage.name for stage in loaded.recipe.stages]
    fields: dict[str, object] = {"recipe": str(loaded.path), "valid": True, "stages": stages}
    if not recipe_only:
        with output.stdout_for_results():
            fields |= _validate_files(loaded, place, download, trust_modules)
    if as_json:
        output.show_json(fields)
    else:
        output.show_fields(fields)


@app.command()
@guarded
def report(
    context: typer.Context,
    run_folder: Annotated[Path, typer.Argument(help="The folder of a run")],
    as_json: Json = False,
) -> None:
    """Write the report of a run anew and show its table."""
    from compress.pipeline.files import read_json
    from compress.pipeline.job import RECORD

    if not read_json(run_folder / RECORD):
        raise CompressError(
            f"'{run_folder}' has no readable {RECORD}: name the folder of a run (runs/RECIPE)"
        )
    try:
        with output.stdout_for_results():
            _write_report(run_folder)
        output.show_run(run_folder.absolute(), (), as_json)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CompressError(
            f"'{run_folder / RECORD}' is not the record of a run as this version writes it "
            f"({type(error).__name__}: {error}). Run its recipe again: cached stages are kept"
        ) from error


@app.command()
@guarded
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the recipes that come with compress."""
    from compress.recipe import list_recipes

    shipped = list_recipes()
    if as_json:
        output.show_json([{**asdict(recipe), "path": str(recipe.path)} for recipe in shipped])
    else:
        output.show_fields({recipe.name: recipe.summary for recipe in shipped})


@app.command()
@guarded
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Show what is installed, and what each extra and device still lacks."""
    from compress.doctor import examine, table

    checks = examine()
    if as_json:
        output.show_json([asdict(check) for check in checks])
    else:
        output.show(table(checks))


app.add_typer(bench, name="bench")
app.command()(engine)
app.command()(bundle)
app.command()(predict)


def _run(
    job: Job, place: Place, selection: Selection, quiet: bool
) -> tuple[tuple[str, ...], GateError | None]:
    """The stages that ran, and the gate that was missed, if any."""
    from compress.pipeline.runner import run
    from compress.progress import ConsoleProgress

    with output.stdout_for_results(), _layers_of(job):
        try:
            return run(job, place, ConsoleProgress(quiet), _write_report, selection).ran, None
        except GateError as missed:
            return (), missed


@contextmanager
def _layers_of(job: Job) -> Iterator[None]:
    """Inside the block the user's own layers are known; where there are none, nothing is done."""
    if job.modules is None:
        yield
        return
    from compress.models.custom_modules import custom_modules

    with custom_modules(job.modules.path):
        yield


def _write_report(folder: Path) -> None:
    from compress.report import write_report  # draws plots: not imported where all is cached

    write_report(folder)


def _loaded(
    recipe: str, overrides: list[str] | None, out: Path | None, cache: Path | None
) -> tuple[LoadedRecipe, Place]:
    from compress.pipeline.job import Place
    from compress.recipe import find_recipe, load_recipe

    loaded = load_recipe(find_recipe(recipe), overrides or ())
    return loaded, Place.of(loaded.name, out, cache)


def _prepare(loaded: LoadedRecipe, cache: Path, download: bool, trust_modules: bool) -> Job:
    from compress.pipeline.job import prepare

    return prepare(loaded, cache, download=download, trust_modules=trust_modules)


def _validate_files(
    loaded: LoadedRecipe, place: Place, download: bool, trust_modules: bool
) -> dict[str, object]:
    """What the recipe names, after every file of it was looked at."""
    from compress.pipeline.job import read_only
    from compress.pipeline.links import link_steps
    from compress.pipeline.preflight import check_what_can_be

    with read_only(place.cache) as cache:
        job = _prepare(loaded, cache, download, trust_modules)
        skipped = check_what_can_be(job, link_steps(job.recipe), cache)
    yaml = job.data.yaml  # may have been drawn or copied only for this look
    return {
        "files": [str(artifact.path) for artifact in job.named.values()],
        "data": str(yaml) if yaml.is_file() else loaded.recipe.data,
        "images": [f"{len(paths)} {split}" for split, paths in job.data.splits.items()],
        **({"skipped": skipped} if skipped else {}),
    }


def _selection(start: str, until: str, force: list[str] | None) -> Selection:
    from compress.pipeline.plan import Selection

    return Selection(start, until, tuple(force or ()))


def _show_plan(
    loaded: LoadedRecipe,
    place: Place,
    selection: Selection,
    download: bool,
    trust_modules: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from compress.pipeline.job import read_only
    from compress.pipeline.plan import plan
    from compress.progress import ConsoleProgress

    with output.stdout_for_results(), read_only(place.cache) as cache:
        job = _prepare(loaded, cache, download, trust_modules)
        steps = plan(job, place, ConsoleProgress(quiet), selection)
    output.show_plan(steps, job, place, as_json)
