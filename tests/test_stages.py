from __future__ import annotations

import json
from itertools import islice

import pytest
from conftest import SHARED, cli, write_jsonl

from selfdistill.checks import load_check
from selfdistill.core.config import DataSettings, DistillSettings, TaskSettings
from selfdistill.core.engine_settings import TransformersSettings
from selfdistill.core.errors import UserError
from selfdistill.core.progress import Progress
from selfdistill.core.records import Example, Prediction, dump, read_records
from selfdistill.core.rewrites import Candidate, Reason, Rewrite, Selected
from selfdistill.data.examples import read_examples
from selfdistill.engines.open import make_engine
from selfdistill.engines.protocol import Completion
from selfdistill.microworld.world import items
from selfdistill.models.prompts import Prompter
from selfdistill.models.seed_lm import load_model
from selfdistill.stages.distill import distill as run_distill
from selfdistill.stages.evaluate import evaluate, regrade
from selfdistill.stages.select import apart, choose, judge, read_selected, select
from selfdistill.tasks.base import Permissions
from selfdistill.tasks.load import load_tasks


def micro(ability="facts", count=12):
    return read_examples(DataSettings(path=f"micro:{ability}", sample=count))


@pytest.fixture
def two_turns(tmp_path):
    rows = list(islice(items("facts", "train"), 4))
    row = {"instruction": rows[1].prompt, "output": rows[1].terse, "history": [[rows[0].prompt, rows[0].terse]]}
    short = {"instruction": rows[2].prompt, "output": rows[2].terse}
    return read_examples(DataSettings(path=str(write_jsonl(tmp_path / "turns.jsonl", [row, short]))))


def distill(examples, out, lm, engine, settings, seed=0):
    prompter = Prompter.create(lm.tokenizer)
    assert run_distill(examples, out, lm.digest, engine, prompter, settings, seed) == 0
    return out


# --- distill -----------------------------------------------------------------------------------------------------


def test_the_seed_lm_rewrites_in_its_own_words_and_its_rewrites_lie_closer_to_it(tmp_path, embedded, engine):
    examples = micro(count=24)
    out = distill(examples, tmp_path / "r.jsonl", embedded, engine, DistillSettings(max_new_tokens=60))
    rewrites = list(read_records(out, Rewrite))
    assert [r.id for r in rewrites] == [e.id for e in examples]
    reasons = select(examples, out, tmp_path / "s.jsonl", load_check("contains"))
    assert reasons[Reason.PASSED] >= 18
    kept = [s for s in read_records(tmp_path / "s.jsonl", Selected) if s.source == "distilled"]
    before = {r.id: r.reference_nll for r in rewrites}
    assert all(s.seed_nll < before[s.id] for s in kept)


def test_each_turn_is_rewritten_given_the_rewritten_turns_before_it(tmp_path, embedded, engine, two_turns, monkeypatch):
    asked = []
    original = engine.generate

    def generate(requests):
        asked.append(list(requests))
        return original(asked[-1])

    monkeypatch.setattr(engine, "generate", generate)
    out = distill(two_turns, tmp_path / "r.jsonl", embedded, engine, DistillSettings(max_new_tokens=60))
    first, second = read_records(out, Rewrite)
    assert len(first.candidates[0].responses) == 2 and len(second.candidates[0].responses) == 1
    later = embedded.tokenizer.decode(asked[1][0].prompt.ids)
    assert first.candidates[0].turns[0] in later and two_turns[0].reference in later
    assert len(asked[1]) == 1


def test_candidates_differ_and_the_one_closest_to_the_seed_wins(tmp_path, embedded, engine):
    examples = micro(count=6)
    settings = DistillSettings(candidates=3, temperature=1.0, max_new_tokens=60)
    out = distill(examples, tmp_path / "r.jsonl", embedded, engine, settings, seed=1)
    for rewrite, example in zip(read_records(out, Rewrite), examples, strict=True):
        assert len(rewrite.candidates) == 3
        chosen = choose(example, rewrite, judge(example, rewrite, None))
        assert chosen.seed_nll == min(c.seed_nll for c in rewrite.candidates if c.finish_reason == "stop")


def test_a_row_longer_than_the_context_is_listed_and_keeps_its_reference(tmp_path, embedded, engine):
    path = write_jsonl(
        tmp_path / "d.jsonl", [{"prompt": "x1 " * 3000, "completion": "y"}, {"prompt": "a", "completion": "b"}]
    )
    examples = read_examples(DataSettings(path=str(path)))
    out = distill(examples, tmp_path / "r.jsonl", embedded, engine, DistillSettings(max_new_tokens=8))
    rewrite = next(iter(read_records(out, Rewrite)))
    assert rewrite.failure is Reason.REJECTED and "2048" in rewrite.note
    reasons = select(examples, out, tmp_path / "s.jsonl", None)
    assert reasons[Reason.REJECTED] == 1 and sum(reasons.values()) == 2


class Failing:
    """The engine, but for requests of which `bad` says how they fail."""

    def __init__(self, engine, bad):
        self.engine, self.bad, self.asked = engine, bad, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def generate(self, requests):
        requests = list(requests)
        self.asked += [r.id for r in requests]
        failing = [(r, why) for r in requests if (why := self.bad(r.id))]
        yield from (Completion(r.id, "", why, error=f"{why} for a test") for r, why in failing)
        yield from self.engine.generate([r for r in requests if not self.bad(r.id)])


def test_rows_that_the_engine_failed_on_are_tried_again_and_no_others(tmp_path, embedded, engine):
    examples = micro(count=10)
    settings = DistillSettings(max_new_tokens=24, candidates=2, temperature=0.7)
    prompter = Prompter.create(embedded.tokenizer)
    whole = distill(examples, tmp_path / "whole.jsonl", embedded, engine, settings)
    out = tmp_path / "r.jsonl"
    wrong, refused = examples[3].id, examples[5].id

    def bad(id):
        return "rejected" if id.startswith(refused) else "error" if id == f"{wrong}/0/1" else None

    failing = Failing(engine, bad)
    assert run_distill(examples, out, embedded.digest, failing, prompter, settings) == 1
    rows = {r.id: r for r in read_records(out, Rewrite)}
    assert rows[wrong].failure is Reason.ERROR and rows[wrong].note == "error for a test"
    assert rows[refused].failure is Reason.REJECTED and len(rows) == 10
    reasons = select(examples, out, tmp_path / "s.jsonl", None)
    assert reasons[Reason.ERROR] == reasons[Reason.REJECTED] == 1
    failing.asked.clear()
    failing.bad = lambda key: None
    assert run_distill(examples, out, embedded.digest, failing, prompter, settings) == 0
    assert failing.asked == [f"{wrong}/0/1"]  # what was refused is not asked again
    assert [f.name for f in tmp_path.glob("r.jsonl*")] in (
        ["r.jsonl", "r.jsonl.meta.json"],
        ["r.jsonl.meta.json", "r.jsonl"],
    )
    wanted = {r.id: r for r in read_records(whole, Rewrite)}
    for row in read_records(out, Rewrite):
        assert row == wanted[row.id] or row.id == refused


def test_items_that_the_engine_failed_on_are_asked_again_and_no_others(tmp_path, embedded, engine):
    tasks = load_tasks([TaskSettings(name="facts", path="micro:facts", limit=8)], 0, Permissions(), Progress())
    prompter = Prompter.create(embedded.tokenizer)
    whole = evaluate(tasks, tmp_path / "a", embedded.digest, engine, prompter)
    wrong, refused = (e.id for e in tasks[0].items[:2])
    failing = Failing(engine, lambda key: {f"{wrong}~": "error", f"{refused}~": "rejected"}.get(key))
    (first,) = evaluate(tasks, tmp_path / "b", embedded.digest, failing, prompter)
    assert first.errors == 2 and first.n == 8
    failing.asked.clear()
    failing.bad = lambda key: None
    (second,) = evaluate(tasks, tmp_path / "b", embedded.digest, failing, prompter)
    assert failing.asked == [f"{wrong}~"] and second.errors == 1
    texts = {p.id: p.text for p in read_records(tmp_path / "b" / "predictions.jsonl", Prediction)}
    assert texts.pop(refused) == ""
    assert (
        texts.items() <= {p.id: p.text for p in read_records(tmp_path / "a" / "predictions.jsonl", Prediction)}.items()
    )
    assert whole[0].errors == 0


def test_an_engine_that_gives_up_loses_no_text_it_has_answered(tmp_path, embedded, engine):
    examples = micro(count=8)
    settings = DistillSettings(max_new_tokens=24)
    prompter = Prompter.create(embedded.tokenizer)

    class GivesUp(Failing):
        def generate(self, requests):
            for n, completion in enumerate(super().generate(requests)):
                if n == 3:
                    raise UserError("the server is gone")
                yield completion

    failing = GivesUp(engine, lambda key: None)
    with pytest.raises(UserError, match="gone"):
        run_distill(examples, tmp_path / "r.jsonl", embedded.digest, failing, prompter, settings)
    later = Failing(engine, lambda key: None)
    assert run_distill(examples, tmp_path / "r.jsonl", embedded.digest, later, prompter, settings) == 0
    assert len(later.asked) == 5
    whole = distill(examples, tmp_path / "whole.jsonl", embedded, engine, settings)
    assert whole.read_bytes() == (tmp_path / "r.jsonl").read_bytes()


def test_samples_give_unbiased_pass_at_k_beside_the_greedy_score(tmp_path, embedded, engine):
    settings = TaskSettings(name="facts", path="micro:facts", limit=6, max_new_tokens=24, samples=10, temperature=1.5)
    tasks = load_tasks([settings], 0, Permissions(), Progress())
    prompter = Prompter.create(embedded.tokenizer)
    (result,) = evaluate(tasks, tmp_path / "e", embedded.digest, engine, prompter)
    answers = list(read_records(tmp_path / "e" / "predictions.jsonl", Prediction))
    assert all(len(p.samples) == 10 for p in answers) and len({s.text for p in answers for s in p.samples}) > 10
    passed = [sum(s.passed for s in p.samples) for p in answers]
    assert result.metrics["pass@1"].value == pytest.approx(sum(passed) / 60)
    assert result.metrics["pass@10"].value == pytest.approx(sum(c > 0 for c in passed) / 6)
    assert result.n == 6 and "pass@100" not in result.metrics
    (again,) = regrade(tmp_path / "e", Permissions())
    assert again == result


@pytest.mark.heavy
@pytest.mark.parametrize("kept", [0, 30, 50])
def test_a_harness_task_that_was_torn_is_measured_again(tmp_path, embedded, engine, kept):
    pytest.importorskip("lm_eval", reason="needs pip install 'selfdistill[paper]'")
    tasks = load_tasks([TaskSettings(name="q", path="lm-eval:micro_arc", limit=50)], 0, Permissions(), Progress())
    prompter = Prompter.create(embedded.tokenizer)
    whole = evaluate(tasks, tmp_path / "a", embedded.digest, engine, prompter)
    lines = (tmp_path / "a" / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    torn = tmp_path / "b"
    torn.mkdir()
    (torn / "predictions.jsonl.partial").write_bytes(b"".join(lines[:kept]))
    (torn / "predictions.jsonl.meta.json").write_bytes((tmp_path / "a" / "predictions.jsonl.meta.json").read_bytes())
    assert evaluate(tasks, torn, embedded.digest, engine, prompter) == whole
    assert (torn / "predictions.jsonl").read_bytes() == b"".join(lines) and whole[0].n == 50


# --- select ------------------------------------------------------------------------------------------------------

ROW = Example(id="1", prompt=({"role": "user", "content": "2 + 2?"},), reference="4", task="t")


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        ([{"text": "It is 4."}], Reason.PASSED),
        ([{"text": "It is 5."}], Reason.WRONG),
        ([{"text": "It is four."}], Reason.NO_ANSWER),
        ([{"text": "The reference answer is 4."}], Reason.LEAKED),
        ([{"text": "It is 4." * 40}], Reason.INCOHERENT),
        ([{"text": "<think>4 or 5? Based on the reference answer, 4.</think>It is 5."}], Reason.WRONG),
        ([{"text": "<think>It is 4."}], Reason.NO_ANSWER),
        ([{"text": "  "}], Reason.EMPTY),
        ([{"text": "It is 4", "finish_reason": "length"}], Reason.TRUNCATED),
        ([{"text": "", "thoughts": ["It is 4"], "finish_reason": "length"}], Reason.IN_THOUGHT),
        ([], Reason.MISSING),
        ([{"text": "It is 5."}, {"text": "It is 4."}], Reason.PASSED),
    ],
)
def test_every_row_gets_a_reason(candidates, reason):
    rewrite = apart(Rewrite(id="1", candidates=candidates))
    row = choose(ROW, rewrite, judge(ROW, rewrite, load_check("last_number")))
    assert row.reason is reason
    assert row.source == ("distilled" if reason is Reason.PASSED else "original")
    assert row.response == ("It is 4." if reason is Reason.PASSED else "4")


def chosen(check, *texts, row=ROW, keep=False):
    rewrite = apart(Rewrite(id="1", candidates=[{"text": t, "seed_nll": n} for n, t in enumerate(texts)]))
    return choose(row, rewrite, judge(row, rewrite, check and load_check(check)), keep)


@pytest.mark.parametrize("check", [None, "last_number", "exact"])
def test_a_rewrite_that_is_the_reference_is_counted_apart(check):
    row = chosen(check, " 4\n")
    assert (row.source, row.reason, row.response, row.rewritten) == ("distilled", Reason.COPIED, " 4\n", False)


def test_own_words_go_before_a_copy_and_a_copy_before_none():
    assert chosen("last_number", "4", "It is 4.").response == "It is 4."
    assert chosen("last_number", "It is 5.", "4").reason is Reason.COPIED


def test_a_rewrite_that_the_check_cannot_tell_of_keeps_the_reference():
    row = chosen(
        "refusal", "Samahani, siwezi kukusaidia na ombi hili.", row=ROW.model_copy(update={"reference": "refuse"})
    )
    assert (row.source, row.reason) == ("original", Reason.UNCLEAR)


@pytest.mark.parametrize("check", [None, "contains", "last_number"])
def test_loops_are_no_rewrites_whatever_the_check(check):
    assert chosen(check, "It is 4. " + "I hope that it helps. " * 30).reason is Reason.INCOHERENT
    rows = ROW.model_copy(update={"reference": "4 " * 50})  # asked for
    assert chosen(None, "4 " * 60, row=rows).reason is Reason.KEPT


def test_thoughts_are_not_judged_and_train_where_they_are_kept():
    row = chosen("last_number", "<think>\n5? No.\n</think>\nIt is 4.")
    assert row.reason is Reason.PASSED and (row.response, row.thoughts) == ("It is 4.", ())
    row = chosen("last_number", "<think>\n5? No.\n</think>\nIt is 4.", keep=True)
    assert (row.response, row.thoughts) == ("It is 4.", ("5? No.",))


def test_what_a_row_asks_for_is_asked_of_the_last_turn():
    prompt = ({"role": "user", "content": "Q1"}, {"role": "assistant", "content": "the land is France"}, ROW.prompt[0])
    row = Example(id="1", prompt=prompt, reference="Paris", task="t", meta={"contains": ["Paris"]})
    made = [{"text": "It is Paris.", "turns": ["It is: the land is France."]}]
    assert judge(row, Rewrite(id="1", candidates=made), load_check("contains")) == [Reason.PASSED]


def test_selected_rows_must_fit_the_data(tmp_path, two_turns):
    path = tmp_path / "s.jsonl"
    rows = [
        Selected(id=e.id, response="R", turns=e.references[:-1], source="distilled", reason="passed") for e in two_turns
    ]
    for bad, message in [
        (rows[:1], "no row for id"),
        ([*rows, rows[0]], "occurs twice"),
        ([rows[0].model_copy(update={"turns": ()}), rows[1]], "needs 2 turns"),
        ([*rows, rows[0].model_copy(update={"id": "x"})], "belong to no row"),
    ]:
        path.write_bytes(b"".join(map(dump, bad)))
        with pytest.raises(UserError, match=message):
            read_selected(two_turns, path)


def test_the_passing_candidate_with_the_lowest_seed_nll_wins():
    made = [Candidate(text="4 a", seed_nll=0.5), Candidate(text="5", seed_nll=0.0), Candidate(text="4 b", seed_nll=0.1)]
    rewrite = Rewrite(id="1", candidates=made)
    assert choose(ROW, rewrite, judge(ROW, rewrite, load_check("last_number"))).response == "4 b"


def test_rewrites_are_joined_by_id_whatever_their_order_and_strangers_are_refused(tmp_path):
    examples = micro(count=5)
    made = [Rewrite(id=e.id, candidates=[{"text": f"It is {e.reference}."}]) for e in examples]
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(dump(r) for r in [*reversed(made)][:-1]))  # other order, one missing
    select(examples, path, tmp_path / "s.jsonl", load_check("contains"))
    rows = list(read_records(tmp_path / "s.jsonl", Selected))
    assert [r.id for r in rows] == [e.id for e in examples]
    assert rows[0].reason is Reason.MISSING
    assert all(e.reference in r.response for r, e in zip(rows[1:], examples[1:], strict=True))
    path.write_bytes(dump(Rewrite(id="stranger", candidates=[{"text": "x"}])))
    with pytest.raises(UserError, match="stranger"):
        select(examples, path, tmp_path / "s2.jsonl", None)
    path.write_bytes(dump(made[0]) * 2)
    with pytest.raises(UserError, match="twice"):
        select(examples, path, tmp_path / "s2.jsonl", None)


def exported(examples, files):
    folder = next(iter(files.values())).parent
    made = [Rewrite(id=e.id, candidates=[{"text": "R", "turns": e.references[:-1]}]) for e in examples]
    (folder / "r.jsonl").write_bytes(b"".join(map(dump, made)))
    select(examples, folder / "r.jsonl", folder / "s.jsonl", None, exports=files)


@pytest.mark.parametrize("form", ["messages", "prompt-completion"])
def test_exports_load_in_trl_as_they_are(tmp_path, foreign_folder, two_turns, form):
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    exported(two_turns, {form: tmp_path / "x.jsonl"})
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(foreign_folder),
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no"
        ),
        train_dataset=datasets.load_dataset("json", data_files=str(tmp_path / "x.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(foreign_folder),
    )
    assert trainer.train().training_loss > 0


def test_exports_for_other_trainers_hold_every_turn(tmp_path, two_turns):
    exported(two_turns, {"alpaca": tmp_path / "a.json", "sharegpt": tmp_path / "g.jsonl"})
    row = json.loads((tmp_path / "a.json").read_text())[0]
    assert row["output"] == "R" and row["history"] == [[two_turns[0].prompt[0]["content"], two_turns[0].references[0]]]
    again = read_examples(DataSettings(path=str(tmp_path / "a.json")))
    assert [e.prompt for e in again] == [e.prompt for e in two_turns]
    talk = json.loads((tmp_path / "g.jsonl").read_text().splitlines()[0])["conversations"]
    assert [t["from"] for t in talk] == ["human", "gpt", "human", "gpt"] and talk[-1]["value"] == "R"


# --- together ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real datasets in ../shared/data")
@pytest.mark.parametrize(
    ("name", "check"),
    [("gsm8k_test.jsonl", "last_number"), ("openfunctions_test.json", "function_call"), ("lima_train.json", "none")],
)
def test_real_files_lose_no_row(tmp_path, name, check):
    sample = ["--sample", "5"]
    done = cli(
        "distill",
        "--model",
        "embedded",
        "--data",
        SHARED / name,
        *sample,
        "--max-new-tokens",
        24,
        "--out",
        tmp_path / "r.jsonl",
    )
    assert done.returncode == 0, done.stderr
    done = cli(
        "select",
        "--data",
        SHARED / name,
        *sample,
        "--rewrites",
        tmp_path / "r.jsonl",
        "--check",
        check,
        "--out",
        tmp_path / "s.jsonl",
    )
    assert done.returncode == 0, done.stderr
    examples = read_examples(DataSettings(path=str(SHARED / name), sample=5))
    rows = list(read_records(tmp_path / "s.jsonl", Selected))
    assert [r.id for r in rows] == [e.id for e in examples]
    for row, example in zip(rows, examples, strict=True):
        assert row.source == "distilled" or row.responses == example.references
    assert (tmp_path / "r.jsonl").stat().st_size > 0


def test_engine_for_the_foreign_model_ends_where_its_template_ends(foreign_folder):
    lm = load_model(str(foreign_folder))
    engine = make_engine(TransformersSettings(rows=4), lm, Prompter.create(lm.tokenizer))
    assert engine.end_ids == {2}
