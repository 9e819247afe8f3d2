"""Studies: every table and figure of the paper by name, on any model.

In:  a study's name (or all), a world (the real datasets, or the microworld's counterparts), a model.
Out: OUT/NAME.md and NAME.csv, for figures NAME.svg and NAME.png too; OUT/study.json (versions, seconds, status).

    selfdistill study all --allow-code-execution          # the embedded model, the microworld
    selfdistill study table1 --world paper --model M --data-dir data

What an arm needs is made once (`lab.py`) and shared by all studies; a stopped study goes on where it was.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.store import locked, write_atomic
from selfdistill.run_folder import Manifest
from selfdistill.studies.grid import MULTI, SINGLE, Study, studies
from selfdistill.studies.lab import Arm, Lab, load_world
from selfdistill.studies.tables import classes, difference_table, score_csv, score_table, unjudgeable
from selfdistill.tasks.base import Permissions

WORLDS = {
    "micro": "The microworld's counterparts of the paper's datasets and benchmarks: the numbers beside ours are the "
    "paper's on its own datasets with Llama-2-7b-chat, and are not expected to be equal.",
    "paper": "The paper's datasets and benchmarks; the numbers beside ours are the paper's with Llama-2-7b-chat.",
}
QUICK = ["data.sample=100"]
QUICK_ITEMS = 30
ELSEWHERE = ("model", "tasks", "data_dir", "judge", "allow_code_execution", "code_without_walls")
"""Keys of a recipe that a study takes from its own options."""


def run_studies(
    names: list[str],
    world: str,
    model: str,
    out: Path,
    permissions: Permissions,
    only: list[str] | None = None,
    overrides: list[str] | None = None,
    limit: int | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Run studies into `out`; returns their Markdown by name.

    `only` names the datasets that are trained on (all by default), `overrides` are `key=value` for every recipe,
    `limit` caps the items of a task. Raises UserError for an unknown study, world or dataset.
    """
    progress = progress or Progress()
    listed = studies(quick)
    wanted = list(listed) if names == ["all"] else names
    for name in wanted:
        if name not in listed:
            raise UserError(f"study {name!r}: no such study. There are: {', '.join(listed)}, all.")
    if world not in WORLDS:
        raise UserError(f"--world {world}: no such world. There are: {', '.join(WORLDS)}.")
    for name in only or []:
        if name not in (*SINGLE, *MULTI):
            raise UserError(f"--datasets {name}: no such dataset. There are: {', '.join((*SINGLE, *MULTI))}.")
    for override in overrides or []:
        if override.partition("=")[0].strip().split(".")[0] in ELSEWHERE:
            raise UserError(f"--set {override}: not in a study; its options (--model, --data-dir, ...) say that.")
    _need_packages([listed[name] for name in wanted])
    if quick:
        overrides, limit = [*QUICK, *(overrides or [])], limit or QUICK_ITEMS
    recipes = load_world(world, [*(overrides or []), f'model="{model}"'], limit)
    lab = Lab(recipes, out, permissions, set(only or (*SINGLE, *MULTI)), progress)
    with locked(out):
        manifest = Manifest(out / "study.json")
        with manifest.status():
            manifest.add(world=world, model=lab.seed_lm.digest, device=lab.seed_lm.device, dtype=lab.seed_lm.dtype)
            texts = _run([listed[name] for name in wanted], lab, world, out, manifest, progress)
            manifest.finish()
            return texts


def _run(
    wanted: list[Study], lab: Lab, world: str, out: Path, manifest: Manifest, progress: Progress
) -> dict[str, str]:
    """Make every arm, each with all the tasks that any study asks of it; write each study when its arms are done."""
    needs: dict[Arm, dict[str, None]] = {}
    for study in wanted:
        for arm in study.arms:
            if lab.wants(arm):
                needs.setdefault(arm, {}).update(dict.fromkeys(study.tasks))
    lab.preflight({arm: list(tasks) for arm, tasks in needs.items()})
    done: set[Arm] = set()
    texts: dict[str, str] = {}
    for number, (arm, tasks) in enumerate(needs.items(), 1):
        progress.note(f"arm {number} of {len(needs)}: {arm.label}")
        with manifest.timed(arm.label):
            lab.measure(arm, list(tasks))
        done.add(arm)
        for study in wanted:
            if study.name not in texts and all(a in done for a in study.arms if lab.wants(a)):
                texts[study.name] = _write(study, lab, world, out)
    return {study.name: texts[study.name] for study in wanted}


def _need_packages(wanted: list[Study]) -> None:
    """Complain before the work, not after it."""
    needed = {"matplotlib"} if any(s.kind != "table" for s in wanted) else set()
    if any(s.kind in ("shift", "histogram") for s in wanted):
        needed |= {"sacrebleu", "rouge_score", "sentence_transformers"}
    missing = sorted(name for name in needed if find_spec(name) is None)
    if missing:
        raise UserError(f"these studies need {', '.join(missing)}: pip install 'selfdistill[paper]'.")


def _write(study: Study, lab: Lab, world: str, out: Path) -> str:
    """Render one study from what the lab has, and write its files."""
    from selfdistill.studies.figures import draw

    results = {arm: lab.measure(arm, study.tasks) for arm in study.arms if lab.wants(arm)}
    lines = [
        f"# {_name(study)}: {study.title}",
        "",
        WORLDS[world],
        f"Model: {lab.recipe.model}. Percent, with 95 % intervals.",
        "",
    ]
    place = out / study.name
    if study.kind == "table":
        lines.append(score_table(study, results))
        place.with_suffix(".csv").write_text(score_csv(study, results), encoding="utf-8")
    else:
        table = draw(study, results, lab, place)
        lines += [f"![{study.title}]({study.name}.svg)", "", table]
    if study.kind not in ("shift", "histogram"):
        if differences := difference_table(study, results):
            lines += ["Differences in points, paired by item:", "", differences]
        if found := classes(study, results):
            lines += ["How answers ended:", "", found]
        if found := unjudgeable(study, results):
            lines += ["In no score:", "", found]
    text = "\n".join(lines)
    write_atomic(place.with_suffix(".md"), text)
    return text


def _name(study: Study) -> str:
    word = study.name.rstrip("0123456789")
    return f"{word.capitalize()} {study.name.removeprefix(word)}"
