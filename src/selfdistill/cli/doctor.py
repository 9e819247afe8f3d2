"""Doctor: what a model's chat template makes of conversations, before anything is generated or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfdistill.cli.groups import Answers, Prompt
from selfdistill.cli.options import DATA, Model

if TYPE_CHECKING:
    from selfdistill.core.records import Example
    from selfdistill.models.prompts import Prompter


def doctor(
    *,
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            help="A dataset whose conversations are tried; without it, a few of the usual forms.",
            rich_help_panel=DATA,
        ),
    ] = None,
    prompt: Prompt,
    terminal: Answers,
) -> None:
    """See whether prompt, answer and end token are what the model's chat template itself writes.

    Example: selfdistill doctor --model embedded --data train.jsonl
    """
    from selfdistill.core.config import DataSettings
    from selfdistill.core.progress import plain
    from selfdistill.core.settings import checked
    from selfdistill.data.examples import read_examples
    from selfdistill.data.notes import Notes
    from selfdistill.models.seed_lm import load_model

    progress, console = terminal.progress(), terminal.console()
    settings = checked(DataSettings, {"path": data}, "data") if data else None
    examples = read_examples(settings, seed=0, data_dir=None, notes=Notes(progress)) if settings else _usual()
    prompter = prompt.prompter(load_model(model).tokenizer, progress)
    found = _found(model, examples, prompter)
    for key, value in found["prompt"].items():
        console.print(plain(f"{key:<22} {value}"), highlight=False, markup=False, soft_wrap=True)
    for shape in found["conversations"]:
        said = shape["refused"] or shape["difference"] or "as the template writes it"
        line = f"{shape['rows']:>6} rows of {shape['roles']}: {said}"
        console.print(plain(line), highlight=False, markup=False, soft_wrap=True)
    for line in found["notes"]:
        progress.warn(line)
    terminal.give(found)
    if any(shape["refused"] or shape["difference"] for shape in found["conversations"]):
        raise typer.Exit(1)


def _found(model: str, examples: list[Example], prompter: Prompter) -> dict[str, Any]:
    """{prompt: how the model is asked, conversations: what becomes of each shape, notes}."""
    from selfdistill.core.errors import UserError
    from selfdistill.stages.asked import advice, check_variables, difference, folds, refused, shapes

    if not prompter.in_chat:
        asked = {"format": "paper: no chat template is used", "end": prompter.tokenizer.decode([prompter.end_id])}
        return {"prompt": asked, "conversations": [], "notes": []}
    check_variables(prompter)
    listed, chat = shapes(examples), prompter.chat
    form, decoded = chat.form, prompter.tokenizer.decode
    asked = {
        "format": "chat: the model's own chat template",
        "thinking": f"{prompter.settings.thinking}; the template knows "
        f"{'thoughts' if form.thinks else 'no thoughts'}, and its variables for that are {chat.switch or 'none'}",
        "chat_template_kwargs": str(chat.kwargs),
        "date": f"written, {prompter.settings.date or 'of the day'}" if chat.writes_date else "not written",
        "system turn": "known" if chat.knows_system else "not known: it begins the first user's turn",
        "prompt ends in": repr(chat.prompt([{"role": "user", "content": "x"}])[-40:]),
        "answer": repr(f"{form.opening}ANSWER{decoded(list(form.end))}"),
        "answer with a thought": repr(f"{form.before}THOUGHT{form.behind}ANSWER{decoded(list(form.end))}"),
    }
    conversations = []
    for shape in listed:
        row: dict[str, Any] = {"roles": str(shape), "rows": shape.count, "refused": None, "difference": None}
        try:
            refused(shape, prompter, "data")
            row["difference"] = difference(shape.first, prompter)
        except UserError as error:
            row["refused"] = str(error)
        conversations.append(row)
    notes = [said for said in (folds(listed, prompter), advice(model, prompter, 0)) if said]
    return {"prompt": asked, "conversations": conversations, "notes": notes}


def _usual() -> list[Example]:
    """Conversations that most data has: a question, one under a system turn, one of several turns."""
    from selfdistill.core.records import Example
    from selfdistill.core.turns import Turn

    system, question = Turn(role="system", content="Be brief."), Turn(role="user", content="What is two plus two?")
    answer = Turn(role="assistant", content="Four.")
    prompts = ((question,), (system, question), (question, answer, question))
    return [Example(id=str(n), prompt=turns, reference="Four.", task="") for n, turns in enumerate(prompts)]
