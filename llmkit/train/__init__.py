"""THE MACHINE: a real training run, and nothing else. It does not know that it is watched or sabotaged.

from llmkit.train import build, tiny, train

run = build(tiny(steps=60))
records = list(train(run))
"""

from llmkit.train.checkpoint import Checkpoints
from llmkit.train.config import ModelConfig, RunConfig, vary
from llmkit.train.evaluate import evaluate
from llmkit.train.fingerprint import facts, fingerprint
from llmkit.train.loop import train
from llmkit.train.model import GPT
from llmkit.train.named import CONFIGS, gpt2, laptop, named, tiny
from llmkit.train.run import Run, build
from llmkit.train.scaler import LossScaler

__all__ = [
    "CONFIGS",
    "GPT",
    "Checkpoints",
    "LossScaler",
    "ModelConfig",
    "Run",
    "RunConfig",
    "build",
    "evaluate",
    "facts",
    "fingerprint",
    "gpt2",
    "laptop",
    "named",
    "tiny",
    "train",
    "vary",
]
