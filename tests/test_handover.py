"""What others get: the card, the merged model, and what arrives at the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import cli, free_port

from selfdistill.core.config import Recipe
from selfdistill.core.errors import UserError
from selfdistill.core.recipe import load_recipe
from selfdistill.core.records import Example, Prediction, read_records
from selfdistill.core.rewrites import Rewrite
from selfdistill.core.settings import checked
from selfdistill.models import resolve
from selfdistill.models.folder import adapter_digest
from selfdistill.models.seed_lm import load_model
from selfdistill.publish.card import shown, write_card, write_cards
from selfdistill.publish.merge import merge
from selfdistill.publish.push import push
from selfdistill.report.tables import score_cell
from selfdistill.run_folder import read_results


def front_of(card):
    import yaml

    return yaml.safe_load(card.split("---\n")[1])


# --- the card ----------------------------------------------------------------------------------------------------


def card_of(folder):
    return (folder / "adapter" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arm", ["vanilla", "sdft"])
def test_a_card_says_what_it_is_and_what_came_of_it(small_run, arm):
    card, manifest = card_of(small_run / arm), json.loads((small_run / "run.json").read_text())
    front = front_of(card)
    assert (front["base_model"], front["base_model_relation"]) == ("embedded", "adapter")
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "text-generation")
    assert ("sdft" in front["tags"]) == (arm == "sdft")
    assert "arXiv 2402.13669" in card
    assert manifest["model"] in card
    assert manifest["data"] in card
    for name in ("seed", arm):
        for result in read_results(small_run / name).values():
            assert f"| {score_cell(result.model_dump())} |" in card
    report = json.loads((small_run / "report.json").read_text())
    assert ("| passed | 19 |" in card) == (arm == "sdft")
    assert report["yield"]["passed"] == 19
    assert ("sdft - vanilla" in card) == (arm == "sdft")
    for note in json.loads((small_run / arm / "adapter" / "training.json").read_text())["chosen"]:
        assert note in card


def test_the_recipe_in_a_card_is_that_of_the_run(small_run):
    card = card_of(small_run / "sdft")
    text = re.search(r"```toml\n(model = .*?)\n```", card, re.S)[1]
    assert checked(Recipe, tomllib.loads(text), "card") == load_recipe(small_run / "recipe.toml", [])


def test_nothing_that_a_model_or_a_dataset_wrote_is_in_a_card(small_run):
    texts = set()
    for example in read_records(small_run / "examples.jsonl", Example):
        texts |= {t["content"] for t in example.prompt} | set(example.references)
    for rewrite in read_records(small_run / "rewrites.jsonl", Rewrite):
        texts |= {c.text for c in rewrite.candidates}
    for arm in ("seed", "vanilla", "sdft"):
        texts |= {p.text for p in read_records(small_run / arm / "predictions.jsonl", Prediction)}
    lines = {line for text in texts for line in text.splitlines() if len(line) > 12}
    assert len(lines) > 50
    for arm in ("vanilla", "sdft"):
        card = card_of(small_run / arm)
        assert not [line for line in lines if line in card]
        assert resolve("embedded") not in card
        assert str(small_run.parent) not in card


@pytest.mark.heavy
def test_a_card_changes_no_digest_and_no_resume(small_run, tmp_path):
    from selfdistill.pipeline import run

    out = shutil.copytree(small_run, tmp_path / "run")
    adapter = out / "sdft" / "adapter"
    digest, card = adapter_digest(str(adapter)), (adapter / "README.md").read_bytes()
    (adapter / "README.md").unlink()
    assert adapter_digest(str(adapter)) == digest
    before = {f: f.stat().st_mtime_ns for f in out.rglob("predictions.jsonl")}
    run(load_recipe(out / "recipe.toml", []), out)
    assert (adapter / "README.md").read_bytes() == card
    assert {f: f.stat().st_mtime_ns for f in out.rglob("predictions.jsonl")} == before


def test_a_card_keeps_places_of_this_machine_for_itself(small_run, tmp_path):
    out = shutil.copytree(small_run, tmp_path / "run")
    model = tmp_path / "places" / "my-model"
    model.mkdir(parents=True)
    recipe = (out / "recipe.toml").read_text().replace('"embedded"', json.dumps(str(model)))
    recipe = recipe.replace('path = "micro:rare_tools"', f'path = "{tmp_path}/places/train.jsonl"', 1)
    engine = 'name = "openai"\nbase_url = "http://secret.example:8000/v1"\nmodel = "m"\n'
    recipe = re.sub(r"\[engine\].*?\n(?=\[|$)", f"[engine]\n{engine}", recipe, flags=re.S)
    (out / "recipe.toml").write_text(recipe)
    write_cards(out)
    card = card_of(out / "sdft")
    assert 'model = "my-model"' in card
    assert 'path = "train.jsonl"' in card
    assert 'name = "openai"' in card
    assert not [secret for secret in (str(tmp_path), "places", "secret.example") if secret in card]
    assert "base_model" not in front_of(card)  # the hub would take it for one of its names


def test_names_are_shown_as_they_were_given():
    names = {
        "embedded": "embedded",
        "org/model-7b": "org/model-7b",
        "micro:facts": "micro:facts",
        "data/a.csv": "data/a.csv",
    }
    names |= {resolve("embedded"): "embedded", "/home/me/model": "model", "../model": "model", "~/model": "model"}
    assert {name: shown(name) for name in names} == names


def test_one_training_has_a_card_without_results(tmp_path):
    """Also of a model with all its weights, whose digest counts more files."""
    train = ["train", "--model", "embedded", "--data", "micro:facts", "--sample", 8, "--epochs", 1, "--tune", "full"]
    done = cli(*train, "--out", tmp_path / "full")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "full" / "README.md").read_text()
    front = front_of(card)
    assert (front["base_model"], front["base_model_relation"]) == ("embedded", "finetune")
    assert front["library_name"] == "transformers"
    assert "No results" in card
    assert "`micro:facts`" in card
    assert "PeftModel" not in card
    digest = adapter_digest(str(tmp_path / "full"))
    write_card(tmp_path / "full", "org/name", "micro:facts", "sdft", 1.0)
    assert adapter_digest(str(tmp_path / "full")) == digest
    assert "Self-Distillation" in (tmp_path / "full" / "README.md").read_text()


def test_a_card_for_dora_says_to_merge_before_vllm(small_run, tmp_path):
    folder = shutil.copytree(small_run / "sdft" / "adapter", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    write_card(folder, "org/name", "micro:facts", "sdft", 1.0)
    card = (folder / "README.md").read_text()
    assert "--enable-lora" not in card
    assert "selfdistill merge" in card


# --- merging -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def in_fp32(tmp_path_factory):
    """The embedded model with its weights in fp32, so that merging rounds nothing that shows."""
    folder = tmp_path_factory.mktemp("fp32")
    lm = load_model("embedded", "float32")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


def adapter_for(folder, **more):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    more = {"target_modules": ["q_proj", "up_proj"]} | more
    tuned = get_peft_model(load_model("embedded", "float32").model, LoraConfig(r=4, task_type="CAUSAL_LM", **more))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    tuned.save_pretrained(folder)
    return str(folder)


def base_and_adapter(model, adapter):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(model, "float32").model, adapter).eval()


def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


IDS = torch.arange(5, 45).reshape(2, 20)


@pytest.mark.heavy
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_merged_weights_are_base_plus_adapter(tmp_path, in_fp32, more):
    adapter = adapter_for(tmp_path / "adapter", **more)
    model, _ = loaded(merge(in_fp32, adapter, tmp_path / "merged"))
    assert model.dtype == torch.float32
    with torch.inference_mode():
        seed = load_model(in_fp32, "float32").model(IDS).logits
        expected = base_and_adapter(in_fp32, adapter)(IDS).logits
        assert (expected - seed).abs().max() > 0.5
        assert torch.allclose(model(IDS).logits, expected, atol=1e-3)


@pytest.mark.heavy
def test_a_merged_model_is_a_plain_one_that_answers_the_same(small_run, tmp_path):
    """In the base's own bf16; the answers are those of base and adapter in fp32, which trained it."""
    adapter, out = str(small_run / "vanilla" / "adapter"), tmp_path / "merged"
    done = cli("merge", "--model", "embedded", "--adapter", adapter, "--out", out)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "merged.partial").exists()
    expected = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
    assert expected <= {f.name for f in out.iterdir()}
    assert front_of((out / "README.md").read_text())["base_model"] == "embedded"
    model, tokenizer = loaded(out)
    assert model.dtype == torch.bfloat16
    model, both = model.float(), base_and_adapter("embedded", adapter)
    with torch.inference_mode():
        difference = (model(IDS).logits - both(IDS).logits).abs()
    assert difference.mean() < 0.05
    items = list(read_records(small_run / "seed" / "items.jsonl", Example))[::4]
    for item in items:
        ids = tokenizer.apply_chat_template(item.prompt, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        made, wanted = (m.generate(input_ids=ids, max_new_tokens=32, do_sample=False) for m in (model, both))
        assert tokenizer.decode(made[0]) == tokenizer.decode(wanted[0])
    task = "name=facts,path=micro:facts,limit=4,max_new_tokens=48"
    done = cli("evaluate", "--model", out, "--task", task, "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert "n = 4" in done.stdout


def refused(model, adapter, out, match):
    with pytest.raises(UserError, match=match):
        merge(str(model), str(adapter), out)
    assert not out.exists()
    assert not out.with_name(f"{out.name}.partial").exists()


def test_what_cannot_be_merged_is_refused_before_anything_is_written(small_run, tmp_path, foreign_folder):
    adapter, out = small_run / "sdft" / "adapter", tmp_path / "out"
    refused("embedded", tmp_path / "nothing", out, "no such folder")
    (tmp_path / "empty").mkdir()
    refused("embedded", tmp_path / "empty", out, r"no adapter_config\.json")
    refused("embedded", resolve("embedded"), out, "needs no merging")
    refused(foreign_folder, adapter, out, "does not fit")
    # An adapter of a model with more layers: PEFT itself would leave the rest out.
    from safetensors.torch import load_file, save_file

    deeper = shutil.copytree(adapter, tmp_path / "deeper")
    weights = load_file(deeper / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[re.sub(r"layers\.\d+", "layers.99", name)] = weights[name].clone()
    save_file(weights, deeper / "adapter_model.safetensors")
    refused("embedded", deeper, out, r"no place for .*layers\.99")
    fewer = shutil.copytree(adapter, tmp_path / "fewer")
    save_file({k: v for k, v in weights.items() if k != name and "99" not in k}, fewer / "adapter_model.safetensors")
    refused("embedded", fewer, out, "does not fit")
    (fewer / "adapter_model.safetensors").write_bytes(b"torn")
    refused("embedded", fewer, out, "does not fit")
    quantized = shutil.copytree(resolve("embedded"), tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    refused(quantized, adapter, out, "quantized")
    tied = adapter_for(tmp_path / "tied", target_modules=["lm_head"])
    refused("embedded", tied, out, "embeddings")
    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = {k: v * float("nan") for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, broken / "adapter_model.safetensors")
    refused("embedded", broken, out, "cannot be merged")


def test_an_existing_folder_stays_as_it_is(small_run, tmp_path):
    adapter = str(small_run / "sdft" / "adapter")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists"):
        merge("embedded", adapter, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    foreign = tmp_path / "new.partial"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not ours"):
        merge("embedded", adapter, tmp_path / "new")
    assert (foreign / "mine.txt").read_text() == "mine"


def test_a_merge_goes_over_what_a_killed_one_left(small_run, tmp_path):
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "merge.json").write_text("{}")
    (left / "model.safetensors").write_bytes(b"torn")
    out = merge("embedded", str(small_run / "sdft" / "adapter"), tmp_path / "out")
    assert loaded(out)[0] is not None
    assert not left.exists()


# --- the hub -----------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The few calls of the hub that an upload needs; files come to `server.files`, requests to `server.asked`."""

    def log_message(self, *args):
        pass

    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        self.server.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_GET(self):
        self.answer({"error": "not found"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, here = self.server, f"http://127.0.0.1:{self.server.server_address[1]}"
        server.asked.append((self.path, self.headers.get("Authorization"), body))
        if server.refuses:
            return self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{here}/me/tuned", "name": "me/tuned", "id": "1"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            kinds = {True: "lfs", False: "regular"}
            asked = [f["path"] for f in json.loads(body)["files"]]
            files = [{"path": p, "uploadMode": kinds[p.endswith("safetensors")], "shouldIgnore": False} for p in asked]
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [{**o, "actions": {"upload": {"href": f"{here}/large/{o['oid']}"}}} for o in objects]
            return self.answer({"transfer": "basic", "objects": upload})
        if "/commit/" in self.path:
            import base64

            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.files[value["path"]] = server.large[value["oid"]]
            return self.answer({"commitUrl": f"{here}/me/tuned/commit/0", "commitOid": "0" * 40, "success": True})
        return self.answer({}, 200 if "/branch/" in self.path else 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.large, server.asked, server.refuses = {}, {}, [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def pushed(folder, *more, port, **env):
    """`selfdistill push` as a user calls it, to a hub on this machine."""
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    own |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return cli("push", folder, "--to", "me/tuned", *more, env=os.environ | own | env)


def test_what_arrives_at_the_hub(small_run, tmp_path, hub):
    folder = shutil.copytree(small_run / "sdft" / "adapter", tmp_path / "adapter")
    for name in ("optimizer.pt", "weights.bin", "notes.txt", "code.py"):
        (folder / name).write_bytes(b"not for others")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"not for others")
    before = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    done = pushed(folder, "--private", "--revision", "second", port=hub.server_address[1])
    assert done.returncode == 0, done.stderr
    assert "me/tuned" in done.stderr
    wanted = {"README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"}
    assert hub.files.keys() == wanted
    assert {name: hub.files[name] for name in wanted - {"adapter_config.json"}} == {
        name: before[name] for name in wanted - {"adapter_config.json"}
    }
    assert hub.large.keys() == {hashlib.sha256(before["adapter_model.safetensors"]).hexdigest()}
    config = json.loads(hub.files["adapter_config.json"])
    assert config == json.loads(before["adapter_config.json"]) | {"base_model_name_or_path": "embedded"}
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()} == before
    first = json.loads(hub.asked[0][2])
    assert (first["name"], first["organization"], first["visibility"]) == ("tuned", "me", "private")
    assert any(path == "/api/models/me/tuned/branch/second" for path, _, _ in hub.asked)
    assert any(path.endswith("/commit/second") for path, _, _ in hub.asked)
    # The large files go to signed addresses, all else with the token.
    assert {token for _, token, _ in hub.asked} == {"Bearer hf_secret"}
    assert "hf_secret" not in done.stdout + done.stderr


def test_a_distilled_dataset_arrives_with_its_card(small_run, hub):
    done = pushed(small_run, "--dataset", "--licence", "cc-by-4.0", port=hub.server_address[1])
    assert done.returncode == 0, done.stderr
    assert hub.files.keys() == {"README.md", "train.jsonl"}
    assert json.loads(hub.asked[0][2])["type"] == "dataset"
    rows = [json.loads(line) for line in hub.files["train.jsonl"].splitlines()]
    examples = list(read_records(small_run / "examples.jsonl", Example))
    assert [row["id"] for row in rows] == [e.id for e in examples]
    assert sum(row["source"] == "distilled" for row in rows) == 19
    card = hub.files["README.md"].decode()
    assert front_of(card)["license"] == "cc-by-4.0"
    manifest = json.loads((small_run / "run.json").read_text())
    gap = json.loads((small_run / "report.json").read_text())["gap"]
    for said in (manifest["data"], manifest["model"], "`micro:rare_tools`", "| passed | 19 |", "`embedded`",
                 f"{gap['before']:.2f} nats a token for the references, {gap['after']:.2f} after"):  # fmt: skip
        assert said in card
    texts = {t["content"] for e in examples for t in e.prompt} | {e.reference for e in examples}
    assert not [line for text in texts for line in text.splitlines() if len(line) > 12 and line in card]
    assert str(small_run.parent) not in card


def test_a_dataset_whose_licence_nobody_stated_says_so(small_run, tmp_path):
    from selfdistill.publish.dataset import write_dataset

    write_dataset(small_run, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| licence | not stated |" in card
    assert "license" not in front_of(card)
    with pytest.raises(UserError, match=r"no recipe\.toml"):
        push(tmp_path, "me/tuned", dataset=True)
    with pytest.raises(UserError, match="expected the hub's name"):
        push(small_run, "me/tuned", dataset=True, licence="do: what you like")
    with pytest.raises(UserError, match="--licence is of a dataset"):
        push(small_run / "sdft" / "adapter", "me/tuned", licence="mit")


@pytest.mark.heavy
def test_what_the_hub_refuses_is_one_line(small_run, hub):
    hub.refuses = True
    folder = small_run / "sdft" / "adapter"
    down = pushed(folder, port=free_port())
    denied = pushed(folder, port=hub.server_address[1])
    for done, said in ((denied, "rights"), (down, "push to me/tuned")):
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert "hf_secret" not in done.stderr
    assert not hub.files


def test_without_network_token_or_weights_nothing_is_sent(small_run, tmp_path, monkeypatch):
    import huggingface_hub

    folder = small_run / "sdft" / "adapter"
    with pytest.raises(UserError, match="neither an adapter nor a model"):
        push(small_run, "me/tuned")
    with pytest.raises(UserError, match="no such folder"):
        push(tmp_path / "nothing", "me/tuned")
    for name in ("tuned", "me/tuned/x", "me tuned", "../x"):
        with pytest.raises(UserError, match="user/name"):
            push(folder, name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        push(folder, "me/tuned")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="no token"):
        push(folder, "me/tuned")
    done = cli("push", folder, "--to", "me/tuned", env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
