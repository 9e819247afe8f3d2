"""What the commands import: see forked.py."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets  # noqa: F401
import peft  # noqa: F401
import transformers  # noqa: F401
from transformers import Trainer  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import selfdistill.cli.analysis
import selfdistill.cli.pipeline
import selfdistill.cli.publish
import selfdistill.comparison.gate
import selfdistill.pipeline
import selfdistill.shift.measure
import selfdistill.stages.scale
import selfdistill.studies
import selfdistill.training.trainer  # noqa: F401
