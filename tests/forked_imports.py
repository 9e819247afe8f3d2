"""What the commands import: see forked.py."""

# ruff: noqa: E402

import gc
import importlib
import os
import pkgutil

os.environ["HF_HUB_OFFLINE"] = "1"
gc.disable()  # while everything is imported, which makes much and leaves little

import accelerate.commands.launch  # noqa: F401
import datasets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import rouge_score.rouge_scorer  # noqa: F401
import sacrebleu  # noqa: F401
import scipy.stats  # noqa: F401
import torch.distributed.run  # noqa: F401
import transformers  # noqa: F401
from peft.utils import save_and_load  # noqa: F401
from transformers import Trainer  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import selfdistill

PROGRAMS = ("selfdistill.__main__", "selfdistill.checks.sandbox.program")  # they run when they are imported

for module in pkgutil.walk_packages(selfdistill.__path__, "selfdistill."):
    if module.name not in PROGRAMS:
        importlib.import_module(module.name)

gc.collect()
gc.freeze()  # what is imported stays: a forked process looks through it no more
gc.enable()
