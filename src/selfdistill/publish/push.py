"""Push: an adapter, a model folder, or the dataset of a run to the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from selfdistill.core.errors import UserError
from selfdistill.publish.card import shown
from selfdistill.publish.dataset import write_dataset

PUSHED = (".safetensors", ".json", ".jinja", ".md")
"""What is uploaded, and nothing else: no pickles, no checkpoints, no code."""


def push(
    folder: Path,
    to: str,
    private: bool = False,
    revision: str | None = None,
    dataset: bool = False,
    licence: str | None = None,
) -> str:
    """Upload an adapter or a model folder to the hub as `to` (user/name), and return its address there. `revision` is
    a branch, made where there is none. With `dataset`, `folder` is that of a run, and its distilled dataset is uploaded
    with a data card, under the `licence` that its user states.

    The token is the environment's (HF_TOKEN) or the hub's own login. Raises UserError for a folder that is neither, a
    name that is none, without token or network, and with what the hub says.
    """
    if licence and not dataset:
        raise UserError("push: --licence is of a dataset. Give --dataset, too; a model's card takes its own.")
    names = [] if dataset else _uploadable(folder)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", to):
        raise UserError(f"--to {to}: expected user/name.")
    with TemporaryDirectory() as scratch:
        if dataset:
            write_dataset(folder, Path(scratch), licence)
        for name in names:
            (Path(scratch) / name).symlink_to((folder / name).resolve())
        _without_local_base(Path(scratch) / "adapter_config.json")
        return _upload(Path(scratch), to, private, revision, "dataset" if dataset else None)


def _upload(folder: Path, to: str, private: bool, revision: str | None, kind: str | None) -> str:
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("push: HF_HUB_OFFLINE is set, so the hub is out of reach. Unset it.")
    token = get_token()
    if not token:
        raise UserError("push: no token. Set HF_TOKEN, or log in once with `hf auth login`.")
    api = HfApi(token=token)
    with _explained(to):
        place = api.create_repo(to, private=private or None, exist_ok=True, repo_type=kind)
        if revision:
            api.create_branch(to, branch=revision, exist_ok=True, repo_type=kind)
        said = "Upload by selfdistill"
        api.upload_folder(repo_id=to, folder_path=folder, revision=revision, commit_message=said, repo_type=kind)
    return str(place)


def _uploadable(folder: Path) -> list[str]:
    """File names to upload. Raises UserError for a folder that holds neither an adapter nor a model."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and f.suffix in PUSHED)
    adapter = {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    model = "config.json" in names and any(n.startswith("model") and n.endswith(".safetensors") for n in names)
    if not adapter and not model:
        raise UserError(
            f"{folder}: neither an adapter nor a model. Expected adapter_config.json with adapter_model.safetensors, "
            "or config.json with model.safetensors."
        )
    return names


def _without_local_base(config: Path) -> None:
    """PEFT notes where the base lay; a folder of this machine means nothing to others."""
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        values["base_model_name_or_path"] = shown(values.get("base_model_name_or_path") or "")
        config.unlink()  # a link to the original, which stays as it is
        config.write_text(json.dumps(values, indent=2), encoding="utf-8")


@contextmanager
def _explained(to: str) -> Iterator[None]:
    """What the hub says, as one line."""
    from huggingface_hub import errors

    network = errors.HTTPError  # type: ignore[attr-defined]  # of the client library, another one from version to version
    try:
        yield
    except (network, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"push to {to}: {' '.join(str(error).split())[:300] or type(error).__name__}") from None
