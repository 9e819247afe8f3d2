from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdistill.checks.call_values import shown
from selfdistill.checks.calls import check_function_call, declared_parameters, declared_tools, find_calls
from selfdistill.core.records import Example
from selfdistill.core.turns import Turn

F = "f(a=1)"


def outcome(response: str, reference: str, prompt: str = "x") -> str:
    example = Example(id="0", prompt=(Turn(role="user", content=prompt),), reference="r", task="t")
    return check_function_call(response, reference, example).outcome


@pytest.mark.parametrize(
    "response",
    [
        'f(a=1)["x"]', "f(a=1).execute()", "x = json.dumps(f(a=1).to_dict())", "show(value=f(a=1))", "print(f(a=1))",
        'print(f"{f(a=1)}")', 'print(f"{f(a=1)!r:>3}")', 'f(**{"a": 1})', 'args = {\n    "a": 1,\n}\nf(**args)',
        "result = await f(a=1)", "(f(a=1), 2)", "{'x': f(a=1)}", "y = [f(a=1) for _ in z]", "with f(a=1) as x: pass",
        "def g():\n    return f(a=1)", "g = lambda: f(a=1)", "@f(a=1)\ndef g(): pass", "if f(a=1): pass", "-f(a=1)",
        "```python\nf(a=1,  # it's (the first\n)\n```", "```\n# not f(a=2)\nf(a=1)\n```", 'log("f(a=2)"); f(a=1)',
        'f(\n    a=1,\n)', "The call (it's f(a=1)) is right.", "### f(a=1)", "Use `f(a=1)`.", "a = 1; f(a=a)", "f (a=1)",
        "f(a=True) is wrong".replace("True", "1"), "f(a=1.0)", "f(a=1e0)", "So...f(a=1)",
    ],
)  # fmt: skip
def test_a_call_is_found_wherever_it_stands(response):
    assert outcome(response, F) == "same"
    assert outcome(response, "f(a=2)") != "same"


@pytest.mark.parametrize(
    "response",
    ["client.f(a=1)", "get().f(a=1)", "g(a=1)", "f", "print('f(a=1)')", "def f(a=1): pass", "f(a=1", "f(a='1)"],
)
def test_what_is_no_call_of_the_function(response):
    assert outcome(response, F) == "no_answer"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f(a=60*60)", "f(a=3600)"), ("f(a=2**10)", "f(a=1024)"), ("f(a=1_000)", "f(a=1e3)"), ("f(a=-5)", "f(a=-5.0)"),
        ("f(a='x' 'y')", 'f(a="xy")'), ('f(a="""x\ny""")', r'f(a="x\ny")'), ("f(a=b'x')", 'f(a=b"x")'),
        ("f(a={1, 2})", "f(a={2, 1})"), ("f(a=(1, 2))", "f(a=[1, 2])"), ("f(*[1, 2])", "f(1, 2)"),
        ('f(a={"x": 1, "y": [1, 2]})', 'f(a={"y": [1.0, 2], "x": 1})'), ("f(a=Mode.FAST)", "f(a = Mode.FAST)"),
        ("f(a=datetime(2024, 1, 5))", "f(a=datetime(2024,1,5))"), ("f(a=P(x=1, y=2))", "f(a=P(y=2, x=1))"),
        ("f(a=true, b=null)", "f(b=None, a=True)"), ("f(a=“x, y”)", 'f(a="x, y")'), ("f(a=&quot;x&quot;)", 'f(a="x")'),
        ("f(a='cafe\u0301')", "f(a='caf\u00e9')"), (r"f(a='x)(\'{', b=2)", """f(b=2, a="x)('{")"""),
        ("f(from='A', class='B')", 'f(class="B", from="A")'), ("f(dry-run=True,)", "f(dry-run = True)"),
        ("f(a=<your-token>)", "f(a='<your-token>')"), ("f(a=$HOME/x, b=1)", "f(b=1, a=$HOME/x)"), ("f(a=...)", "f(a=...)"),
        ("f(d=2024-01-05, c=10.0.0.0/8, t=10:30)", "f(c=10.0.0.0/8, t=10:30, d=2024-01-05)"),
        ("print(f(from='A'))", "f(from='A')"), ("x = f(a=1)\nprint(x)", "f(a=1)"), ("x = g(b=1)\nf(a=x)", "f(a=g(b=1))"),
        ("[f(a=1), g(b=2)]", "g(b=2)\nf(a=1)"), ("1. f(a=1)\n2. f(a=1)", "[f(a=1), f(a=1)]"),
        ("f(a=1)\n\nIn short: f(a=1)", F), ("f(a=1)\n```\nf(a=1)\n```", F),
        ("The call is f(a=1), where f(a) was declared above. f() takes an int, f(a: int) -> str, f(...)", F),
    ],
)  # fmt: skip
def test_the_same_calls(one, other):
    assert outcome(one, other) == outcome(other, one) == "same"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f(a=True)", F), ("f(a='1')", F), ("f(a=None)", F), ("f(a=None)", "f(a='None')"), ("f(a=true)", "f(a='true')"),
        ("f(a=[1, 2])", "f(a=[2, 1])"), ("f(a=2024-10-12)", "f(a=2002)"), ("f(a=2024-01-05)", "f(a=2024-01-06)"),
        ("f(a=10.0.0.0/8)", "f(a=10.0.0.0/9)"), ("f(a=1/2)", "f(a=0.5)"), ("f(a=Mode.FAST)", "f(a='Mode.FAST')"),
        ("f(a=x)", "f(a='x')"), ("x = 1\nf(a=x)", "x = 2\nf(a=x)"), ("f(a=b'x')", "f(a='x')"), ("f(a={1: 2})", "f(a={1, 2})"),
        ("f(a={1: 2})", "f(a={'1': 2})"), ("f(a=9007199254740993)", "f(a=9007199254740992)"), ("f(1)", "f(2)"), ("f(1)", F),
        ("[f(a=1)]", "[f(a=1), f(a=1)]"), ("```\nf(a=1)\nf(a=1)\n```", F), ("f(a=1)\nf(a=1)", F), ("f(a=1) or f(a=2)", F),
        ("[f(a=1), g(b=2)]", F), ("f(a=1)\n\nIf you want more: f(a=1, size=10)", F), ("f(a=1, b=2)", F), ("f(a=b)", F),
        ("f(a=1) or f(b)", F), ("f(a=1)\n\nIn short: f(a=1)", "[f(a=1), f(a=1)]"), ("f(a=<x>)", "f(a=<y>)"),
    ],
)  # fmt: skip
def test_different_calls(one, other):
    assert outcome(one, other) == outcome(other, one) == "different"


@pytest.mark.parametrize("response", ["for i in range(3):\n    f(a=i)", "x = 1\nx = 2\nf(a=x)", "x = (\nf(a=x)"])
def test_a_value_that_cannot_be_told_is_no_answer(response):
    assert outcome(response, F) == "no_answer"
    assert outcome(response, response) == "no_reference"


JSON = '{"name": "f", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    "response",
    [
        JSON, f"```json\n{JSON}\n```", f"I call it: {JSON}.", f"[{JSON}]", f"<tool_call>\n{JSON}\n</tool_call>",
        '{"name": "f", "parameters": {"a": 1.0}}', '{"arguments": "{\\"a\\": 1}", "name": "f"}', "{'name': 'f', 'arguments': {'a': 1}}",
        '{"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": '
        '{"name": "f", "arguments": "{\\"a\\": 1}"}}]}',
        '[{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]', '{"function_call": ' + JSON + "}",
        '[{"type": "text", "text": "Now"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]',
        '{"functionCall": {"name": "f", "args": {"a": 1}}}', '{"action": "f", "action_input": {"a": 1}}',
        '[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}]', '[{"f": {"a": 1}}]', f"functools[{JSON}]",
        f"<|tool_call|>[{JSON}]<|/tool_call|>", f"<TOOLCALL>[{JSON}]</TOOLCALL>", f"<|python_tag|>{JSON}", "<|python_tag|>f(a=1)",
        f"[TOOL_CALLS] [{JSON}]</s>", '[TOOL_CALLS]f[ARGS]{"a": 1}', '[TOOL_CALLS]f[CALL_ID]12ab[ARGS]{"a": 1}',
        '<function=f>{"a": 1}</function>', "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>",
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>',
        'assistantcommentary to=functions.f json{"a": 1}', '>>>f\n{"a": 1}', 'Action: f\nAction Input: {"a": 1}',
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n</minimax:tool_call>',
        '<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>'
        "</｜DSML｜invoke></｜DSML｜function_calls>",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>',
        "<start_function_call>call:f{a:1}<end_function_call>", '<tool_call>f\n```json\n{"a": 1}\n```\n</tool_call>',
        "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>", "{“name”: “f”, “arguments”: {“a”: 1}}",
    ],
)  # fmt: skip
def test_calls_in_json_and_tags(response):
    assert outcome(response, F) == outcome(F, response) == "same"
    assert outcome(response, "f(a=2)") == outcome(response, "[f(a=1), f(a=1)]") == "different"
    assert outcome(response, "g(a=1)") != "same"


@pytest.mark.parametrize(
    "response",
    [
        JSON[:-1], f'[{JSON}, {JSON.replace("1", "2")[:-1]}]', f"{F}\n{JSON[:-2]}", '{"name": "f", "arguments": "{\\"a\\": "}',
        '{"name": "f", "arguments": {"a": 1, "a": 2}}', "<function=f><parameter=a>1</parameter>", "<|tool_call>call:f{a:1",
        '<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>', '{"a": 1}', '{"x": {"f": {"a": 1}}',
        '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}',
    ],
)  # fmt: skip
def test_broken_json_is_no_answer(response):
    assert outcome(response, F) == "no_answer"


@pytest.mark.parametrize(
    ("value", "same"), [("1", ""), ("true", '1 "true"'), ('"1"', "1"), ("null", '"null" 0'), ("1.5", "1")]
)
def test_json_values_are_exact(value, same):
    json_call = f'{{"name": "f", "arguments": {{"a": {value}}}}}'
    assert outcome(json_call, f"f(a={value})") == "same"
    for other in same.split():
        assert outcome(json_call, f"f(a={other})") == "different"


TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}}},
    {"name": "g", "description": "d", "input_schema": {"type": "object", "properties": {"b": {"type": "string"}}}},
]  # fmt: skip


@pytest.mark.parametrize(
    "prompt",
    [
        f"<tools>{json.dumps(TOOLS[0])}</tools>", f"Tools: {json.dumps(TOOLS)}", "Function: f(city, n)",
        "def f(city: str, n: int = 3) -> str: ...", "f(city: str, n=3)",
        "Function to be used: f\nDescription: d\nParameters:\n1. city (type: string) - x\n2. n - y\n",
    ],
)  # fmt: skip
def test_positional_arguments_follow_what_the_prompt_declares(prompt):
    assert outcome("f('Rome', 3)", "f(n=3, city='Rome')", prompt) == "same"
    assert outcome("f(3, 'Rome')", "f(n=3, city='Rome')", prompt) == "different"
    assert outcome("f('Rome', 3)", "f(n=3, city='Rome')") == "different"


def test_what_a_prompt_says_twice_in_two_ways_is_not_used():
    prompt = "f(a, b) or f(b, a). Example: g(y=1, x=2)"
    assert declared_parameters(prompt, declared_tools(prompt)) == {"f": {}}


def test_calls_of_other_tools_count_and_helpers_do_not():
    prompt = json.dumps(TOOLS)
    assert outcome("f(city='A', n=1)\nThen g(b='x').", "f(city='A', n=1)", prompt) == "different"
    assert outcome("f(city='A', n=1)\nThen h(b='x').", "f(city='A', n=1)", prompt) == "same"


def test_values_in_tags_are_texts_where_the_schema_says_so():
    call = "<function=f><parameter=city>5</parameter></function>"
    assert outcome(call, "f(city='5')", json.dumps(TOOLS)) == "same"
    assert outcome(call, "f(city=5)", json.dumps(TOOLS)) == "different"
    assert outcome(call, "f(city=5)") == "same" and outcome(call, "f(city='5')") == "different"


keys = st.from_regex(r"[a-z][a-z_]{0,5}(-[a-z]+)?", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
arguments = st.dictionaries(keys, values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(["f", "geo.find", "find-it"]), arguments), min_size=1, max_size=3)


def python(made: list[tuple[str, dict[str, object]]]) -> str:
    return "[" + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in made) + "]"


@given(calls, st.sampled_from(["{}", "```python\n{}\n```", "I call {} now."]))
def test_python_and_json_are_the_same_call(made, frame):
    as_json = json.dumps([{"name": n, "arguments": a} for n, a in made])
    assert outcome(frame.format(python(made)), as_json) == "same"
    assert outcome(as_json, python(made[::-1])) == "same"


@given(calls, calls)
def test_two_answers_are_the_same_only_if_they_make_the_same_calls(one, other):
    def content(made: list[tuple[str, dict[str, object]]]) -> list[str]:
        return sorted(f"{name} {shown(dict(a))}" for name, a in made)

    assert (outcome(python(one), python(other)) == "same") == (content(one) == content(other))


@given(calls)
def test_what_is_found_reads_as_itself(made):
    found = find_calls(python(made))
    assert [(c.name, len(c.named)) for c in found] == [(n, len(a)) for n, a in made]
    for call in found:
        (again,) = find_calls(str(call))
        assert (again.name, again.unnamed, dict(again.named)) == (call.name, call.unnamed, dict(call.named))


@given(st.text() | st.lists(st.sampled_from(list("f({[\"'=,:#)}]\\<>a1\n “”")), max_size=40).map("".join))
def test_no_text_breaks_the_check(text):
    assert outcome(text, text) in ("same", "no_reference")
    assert outcome(text + " f(a=1)", F) in ("same", "different", "no_answer")


UNITS = [
    "f(", "(", "[", "{", F, '{"name"', '{"name":', '{"a":', 'f("', "f('", '"f("\n', "f(['", "a", "a.", "'''", 'f("""', "x=1;",
    "x:;", "\n", "```\n", " ", "f (\n", "<function=f>", "<tool_call>f", "<|tool_call>call:f{", "to=f ", "[TOOL_CALLS]f",
    '[{"f":{"a":1}},', "f(a=1, ", "for x in ", "#", "f(#", "f(a=“", "<a", "1. ", "def f(", "f(x)\nx=[\n", "\\", "f('\\",
    "f(lambda:", "<parameter=a>", "a-", "[f(a=1),", "{'", "f(a=-", "f(**{", "f(a=x.", "Action: f ", "not f(",
]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("unit", UNITS)
def test_any_text_of_100_000_characters_is_judged_in_no_time(unit):
    text = (unit * (100_000 // len(unit) + 1))[:100_000]
    began = time.process_time()
    outcome(text, F)
    assert time.process_time() - began < 5  # a fifth of that on a slow machine; what is quadratic takes minutes


@pytest.mark.parametrize(
    "text",
    ["f(" * 50_000 + ")" * 50_000, "[" * 50_000 + "]" * 50_000, '{"a":' * 20_000 + "1" + "}" * 20_000, f"f(a={'-' * 90_000}1)",
     f"f(a={'1+' * 40_000}1)", f"f(a={'x.' * 40_000}x)", f"f(a={'not ' * 20_000}1)", f"f(a={'[' * 55}1{']' * 55})"],
)  # fmt: skip
def test_deep_nesting_ends_in_a_judgement(text):
    began = time.process_time()
    assert outcome(text, F) in ("no_answer", "different")
    assert time.process_time() - began < 5  # a fifth of that on a slow machine; what is quadratic takes minutes


# --- chat templates of the installed trl ---------------------------------------------------------------------------

TEMPLATES = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
DROP_CALLS = ("deepseek_r1_distill",)
"""Templates that mention calls and write none."""
ARGUMENTS = {"place": 'Paris, "x"', "days": 5, "exact": True, "where": {"k": [1, 2.5, None]}, "none": None, "code": "5"}
SCHEMA = [
    {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {
        "type": "object", "properties": {k: {"type": "string" if k in ("place", "code") else "x", "description": "d"} for k in ARGUMENTS},
        "required": ["place"]}}}
]  # fmt: skip


def rendered(template: Path, calls: list[tuple[str, dict[str, object]]]) -> str:
    """What the template adds to a conversation for an assistant turn with these calls."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(as_text: bool) -> str:
        made = [{"name": n, "arguments": json.dumps(a) if as_text else a} for n, a in calls]
        turn = {"role": "assistant", "content": "", "tool_calls": [
            {"id": f"call_{i}", "type": "function", "function": m} for i, m in enumerate(made)]}  # fmt: skip
        turns = [{"role": "user", "content": "Paris?"}, json.loads(json.dumps(turn))]
        (whole,), _ = render_jinja_template(
            [turns], tools=SCHEMA, chat_template=template.read_text(), bos_token="<s>", eos_token="</s>"
        )
        return whole[whole.rindex("Paris?") if as_text is None else whole.index("Paris?") + 6 :]

    try:
        return render(as_text=False)
    except Exception:  # DeepSeek's joins texts, and takes arguments as text alone
        return render(as_text=True)


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(p.stem for p in TEMPLATES.glob("*.jinja") if "tool_calls" in p.read_text()))
def test_calls_are_read_as_the_chat_templates_write_them(name):
    one = [("get_weather", ARGUMENTS)]
    two = [*one, ("get_weather", {**ARGUMENTS, "days": 6})]
    prompt = f"Tools: {json.dumps(SCHEMA)}"
    template = TEMPLATES / f"{name}.jinja"
    if name.removesuffix("_training") in DROP_CALLS:
        assert "get_weather" not in rendered(template, one)
        return
    text = rendered(template, one)
    assert outcome(text, python(one), prompt) == "same", text
    assert outcome(text, python(two), prompt) == outcome(text, python(two[1:]), prompt) == "different"
    if name.startswith(("llama3_1", "llama3_2", "gptoss")):  # these write one call in a turn
        return
    both = rendered(template, two)
    assert outcome(both, python(two), prompt) == outcome(both, python(two[::-1]), prompt) == "same", both
    assert outcome(both, python(one), prompt) == "different"
    assert outcome(rendered(template, one * 2), python(one * 2), prompt) == "same"


# --- the Berkeley Function-Calling Leaderboard -----------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("bfcl_eval"), reason="pip install --no-deps bfcl-eval")
@pytest.mark.parametrize("category", ["simple_python", "multiple", "parallel", "parallel_multiple"])
def test_bfcl_answers_accept_themselves_and_reject_every_perturbation(category):
    spec = importlib.util.spec_from_file_location("bfcl", Path(__file__).parents[1] / "benchmarks" / "bfcl.py")
    bfcl = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bfcl)
    count = 0
    for _, possible in bfcl.load(category):
        answer = bfcl.concrete(possible)
        forms = (bfcl.python(answer), bfcl.as_json(answer))
        assert {outcome(one, other) for one in forms for other in forms} == {"same"}, answer
        assert outcome(bfcl.python(answer[::-1]), forms[0]) == "same"
        for what, made in bfcl.wrong(answer):
            for form in (bfcl.python, bfcl.as_json):
                assert outcome(form(made), forms[0]) != "same", (what, made)
        count += 1
    assert count == (400 if category == "simple_python" else 200)
