"""Card: README.md beside the weights, with the hub's front matter: what was trained, on what, and what came of it.

In:  a run's folder, or that of one training.
Out: README.md in every adapter's (or fully tuned model's) folder.

Nothing that a model or a dataset wrote gets into a card, and no path of this machine: of a local file it has the name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfdistill.comparison.differences import compare
from selfdistill.comparison.front import front_of
from selfdistill.core.adapters import is_adapter
from selfdistill.core.config import Recipe
from selfdistill.core.recipe import load_recipe
from selfdistill.core.records import read_records
from selfdistill.core.rewrites import Reason, Selected
from selfdistill.core.store import write_atomic
from selfdistill.methods import method_of
from selfdistill.methods.base import Need
from selfdistill.models import resolve
from selfdistill.report.build import measured
from selfdistill.report.standings import DEFINITION, interval_line, standing_line
from selfdistill.report.tables import _escaped, difference_cell, markdown_table, score_cell, yield_sentence
from selfdistill.run_folder import arms, selection

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""


@dataclass(frozen=True)
class _Made:
    """What a card tells of. `model` is the base as the user named it; `record` is training.json; `rest` are the
    sections that only a whole run can have."""

    model: str
    data: str
    method: str
    mix_ratio: float
    folder: Path
    record: dict[str, Any]
    versions: dict[str, str]
    rest: list[str] = field(default_factory=list)
    revision: str | None = None

    @property
    def base(self) -> str:
        """The base's name for others."""
        return shown(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with, without what was left open."""
        found: dict[str, Any] = self.record["identity"]["settings"]
        return {k: v for k, v in found.items() if v is not None}

    @property
    def whole(self) -> bool:
        """Whether all weights are here, not an adapter."""
        return not is_adapter(self.folder)


def write_cards(run: Path) -> None:
    """README.md beside the weights of every arm of a run, from what lies in the run's folder. Writing it again changes
    nothing: neither the digest of the weights nor what `run` asks of the folder."""
    recipe = load_recipe(run / "recipe.toml", [])
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    repairs = [arm["repair"] for arm in manifest["arms"]]
    standings = _standings(run)
    for arm in manifest["arms"]:
        chosen = read_records(run / selection(arm["repair"], repairs), Selected)
        reasons = Counter(row.reason.value for row in chosen)
        distilled = _yield(reasons) if Need.REWRITES in method_of(arm["method"]).needs else []
        made = _Made(
            recipe.model,
            f"`{shown(recipe.data.path)}`, digest `{manifest['data']}`, {reasons.total()} rows",
            arm["method"],
            arm["mix_ratio"],
            run / arm["name"] / "adapter",
            _record(run / arm["name"] / "adapter"),
            {k: v for k, v in manifest["versions"].items() if v},
            [*distilled, *_results(run, arm["name"], arm["base"]), *standings[arm["name"]], *_again(recipe)],
            recipe.revision,
        )
        write_atomic(made.folder / "README.md", _card(made))


def write_card(folder: Path, model: str, data: str, method: str, mix_ratio: float, revision: str | None = None) -> None:
    """README.md of a single training, without results."""
    names = ("selfdistill", "torch", "transformers", "peft")
    made = _Made(
        model,
        f"`{shown(data)}`",
        method,
        mix_ratio,
        folder,
        _record(folder),
        {name: version(name) for name in names},
        ["", "No results: this was one training, without a run around it that measures."],
        revision,
    )
    write_atomic(folder / "README.md", _card(made))


def shown(name: str) -> str:
    """A model or dataset as its user named it. Of a path of this machine, which is nobody else's, the last part."""
    if name == resolve("embedded"):
        return "embedded"
    return Path(name).name if name.startswith(("/", ".", "~")) or Path(name).exists() else name


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return found


def _card(made: _Made) -> str:
    lines = [
        *_front(made),
        "",
        f"# {made.base} after {method_of(made.method).label}",
        "",
        _what(made),
        "",
        "## What it was made from",
        "",
    ]
    dropped = len(made.record["dropped"])
    left_out = f", {dropped} left out as too long" if dropped else ""
    at = f" at `{made.revision}`" if made.revision else ""
    lines += markdown_table(["", ""], [
        ["base model", f"`{made.base}`{at}, digest `{made.record['identity']['model']}`"],
        ["data", made.data],
        ["trained on", f"{made.record['rows']} rows{left_out}; digest `{made.record['identity']['data']}`"],
        ["versions", ", ".join(f"{k} {v}" for k, v in made.versions.items())],
    ])  # fmt: skip
    lines += ["", "## Training", "", *(f"- {note}" for note in made.record["chosen"])]
    if made.record["loss"]:
        lines.append(f"- last loss {made.record['loss'][-1]['loss']:.4f} nats a token")
    lines += ["", "```toml", *(f"{k} = {json.dumps(v)}" for k, v in made.settings.items())]
    lines += [f"seed = {made.record['identity']['seed']}", "```"]
    return "\n".join([*lines, *made.rest, *_loading(made)]) + "\n"


def _front(made: _Made) -> list[str]:
    """The hub's metadata."""
    tune = made.settings["tune"]
    tags = ["selfdistill", method_of(made.method).tag, *(["lora"] if tune != "full" else [])]
    base = _base_line(made.model)
    kind = "finetune" if made.whole else "adapter"
    library = "transformers" if made.whole else "peft"
    return [
        "---",
        *base,
        *([f"base_model_relation: {kind}"] if base else []),
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]


def _base_line(model: str) -> list[str]:
    """The hub refuses a `base_model` that can be none of its names, and a folder of this machine is none."""
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) and not Path(model).exists()
    return [f"base_model: {shown(model)}"] if named else []


def _what(made: _Made) -> str:
    what = "All weights of a model" if made.whole else "A LoRA adapter"
    method = method_of(made.method)
    whole = not method.rewrites or made.mix_ratio == 1
    share = "" if whole else f" {made.mix_ratio:.0%} of the rows took part in this (the mix ratio)."
    return f"{what}, {ARXIV.sub(_link, method.card)}{share}"


def _link(found: re.Match[str]) -> str:
    return f"[{found[0]}](https://arxiv.org/abs/{found[1]})"


def _yield(reasons: Counter[str]) -> list[str]:
    rows = [[reason, str(count), Reason(reason).explained] for reason, count in reasons.most_common()]
    said = f"{yield_sentence(reasons)}."
    return ["", "## What was distilled", "", said, "", *markdown_table(["reason", "rows", "meaning"], rows)]


def _results(run: Path, name: str, plain: str | None) -> list[str]:
    """Scores of the seed LM and of this arm, with what changed; `plain` is the arm that it is compared with, if
    there is one."""
    folders = {arm: run / arm for arm in ("seed", plain, name) if arm}
    others = [arm for arm in ("seed", plain) if arm]
    rows = []
    for task in compare(folders):
        changes = {d["a"]: d for d in task["differences"] if d["b"] == name}
        role = " (target)" if task["role"] == "target" else ""
        cells = [score_cell(task["arms"].get(arm)) for arm in ("seed", name)]
        n = _items(task["arms"][name]) if name in task["arms"] else "-"
        rows.append([f"{task['task']}{role}", n, *cells, *(difference_cell(changes.get(a)) for a in others)])
    if not rows:
        return ["", "## Results", "", "Nothing was measured: the run had no tasks."]
    header = ["task", "n", "seed", name, *(f"{name} - {a}" for a in others)]
    note = "Percent correct with 95 % Wilson intervals; differences in points, paired by item (Newcombe)."
    return ["", "## Results", "", note, "", *markdown_table(header, rows)]


def _standings(run: Path) -> dict[str, list[str]]:
    """For every training the section on where its arm stands among those of the run."""
    listed = arms(run)
    front = front_of(compare(measured(run)), [arm["name"] for arm in listed])
    report = {"front": asdict(front)}
    found: dict[str, list[str]] = {}
    for arm in listed:
        line = standing_line(report, arm["name"])
        said = [interval_line(report), "", _escaped(line), "", DEFINITION] if line else ["Not measured."]
        found |= {folder: ["", "## Target against retained", "", *said] for folder in arm["folders"]}
    return found


def _items(result: dict[str, Any]) -> str:
    unread = sum(result["unjudgeable"].values())
    return f"{result['n']} ({unread} more cannot be judged)" if unread else str(result["n"])


def _again(recipe: Recipe) -> list[str]:
    """How to repeat the run: its recipe, as far as it differs from the defaults."""
    import tomli_w

    text = tomli_w.dumps(_recipe(recipe))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    how = "Save this as recipe.toml, beside the files that it names, and `selfdistill run recipe.toml --out again`:"
    return ["", "## Make it again", "", how, "", f"{fence}toml", text.rstrip("\n"), fence]


def _recipe(recipe: Recipe) -> dict[str, Any]:
    tree: dict[str, Any] = recipe.model_dump(exclude_none=True, exclude_defaults=True)
    for part, model in (("engine", recipe.engine), ("judge", recipe.judge)):
        if part in tree and model is not None:
            tree[part] = model.model_dump(exclude_none=True)  # without its name an engine would be the default one
            if "base_url" in tree[part]:  # where it runs is this machine's business
                tree[part]["base_url"] = "http://localhost:8000/v1"
    for table, key in (
        (tree, "model"),
        (tree, "data_dir"),
        (tree["data"], "path"),
        (tree, "general_prompts"),
        (tree.get("prompt", {}), "template"),
    ):
        if key in table:
            table[key] = shown(table[key])
    for task in tree.get("tasks", ()):
        task |= {key: shown(task[key]) for key in ("path", "template") if key in task}
    return tree


def _loading(made: _Made) -> list[str]:
    """Section on loading, for plain PEFT or transformers, vLLM, and merged."""
    base = json.dumps(made.base)
    kind = made.record.get("loads_as", "AutoModelForCausalLM")
    start = [f"from transformers import {kind}, AutoTokenizer"]
    if made.base == "embedded" and not made.whole:
        start += ["from selfdistill.models import resolve", ""]
        base = 'resolve("embedded")'
    lines = ["", "## How to load it", "", _asked(made), "", "```python", *start]
    if made.whole:
        lines += [f'model = {kind}.from_pretrained("FOLDER")']
        lines += ['tokenizer = AutoTokenizer.from_pretrained("FOLDER")', "```", "", "`vllm serve FOLDER`"]
        return lines
    base += f", revision={json.dumps(made.revision)}" if made.revision else ""
    lines.insert(-len(start), "from peft import PeftModel")
    lines += [
        f"base = {kind}.from_pretrained({base})",
        f"tokenizer = AutoTokenizer.from_pretrained({base})",
    ]
    lines += ['model = PeftModel.from_pretrained(base, "FOLDER")', "```", ""]
    config = json.loads((made.folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank = next((r for r in RANKS if r >= config["r"]), config["r"])
    at = f" --revision {made.revision}" if made.revision else ""
    merging = f"selfdistill merge --model {made.base}{at} --adapter FOLDER --out merged"
    if config["use_dora"]:
        return [
            *lines,
            "vLLM takes no DoRA adapters. Merge it first:",
            "",
            "```bash",
            merging,
            "vllm serve merged",
            "```",
        ]
    serving = f"vllm serve {made.base}{at} --enable-lora --max-lora-rank {rank} --lora-modules tuned=FOLDER"
    return [*lines, "```bash", serving, f"{merging}      # or a plain model folder", "```"]


def _asked(made: _Made) -> str:
    """How the model must be asked: as it was trained."""
    form = {
        "chat": "Ask it through the base model's own chat template: it was trained with it.",
        "paper": "Ask it in the paper's plain text (Figure 10), not in a chat template: it was trained with that.",
    }
    identity = made.record["identity"]
    asked, more = identity.get("prompt", {}), []
    if variables := asked.get("chat_template_kwargs"):
        more.append(f"Give the chat template these variables: `{json.dumps(variables)}`.")
    if day := asked.get("date"):
        more.append(f"In training, its date was {day}.")
    if (thinking := asked.get("thinking")) is not None:
        more.append(f"Thoughts were {'trained' if thinking == 'keep' else 'no part of what trained'}.")
    said = " ".join([form[identity["prompts"][0]], *more])
    return f"FOLDER is the folder of this file, or its name on the hub. {said}"


def merged_card(model: str, base_digest: str) -> str:
    """README.md of a merged model."""
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- selfdistill", "---"]
    text = (
        f"`{shown(model)}` (digest `{base_digest}`) with an adapter merged into its weights by `selfdistill merge`. "
        "The adapter's own card says what it was trained on and how; its results were measured before merging."
    )
    return "\n".join(["---", *_base_line(model), *front, "", f"# {shown(model)}, merged", "", text]) + "\n"
