"""The model that is to be tuned, and how it is asked: folders (`folder.py`), weights (`seed_lm.py`), the paper's texts
(`templates.py`), prompts (`prompts.py`), thoughts (`thoughts.py`)."""

from selfdistill.core.worlds import model_folder


def resolve(name: str) -> str:
    """`embedded` as the folder inside the package; everything else as it stands."""
    return model_folder(name) or name
