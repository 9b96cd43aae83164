"""Shared by all tests: one thread, one small data set, runs that fit in milliseconds."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import signal

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what it runs in the background,
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # and so would every child that a test interrupts

hypothesis.settings.register_profile("llmkit", deadline=None)  # seconds are a busy machine's, not the code's
hypothesis.settings.load_profile("llmkit")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all workers of a test session, so that each data set is built once."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    folder = shared / "llmkit-cache"
    os.environ["LLMKIT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(cache):
    """The generated corpus with 512 tokens of vocabulary: what `tiny()` expects."""
    from llmkit.data import generated

    return generated(vocab_size=512)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Two made-up languages, 62 % `north` and 38 % `south`, in five training shards of 256 windows of 64."""
    from llmkit.data import Document, build
    from llmkit.data.synthetic import synthetic

    texts = [("north", d.text) for d in synthetic(300, seed=0)]
    texts += [("south", d.text) for d in synthetic(150, seed=1)]
    documents = [Document(i, f"{source}/{i:04d}", text) for i, (source, text) in enumerate(texts)]
    folder = tmp_path_factory.mktemp("data") / "mixed"
    return build(
        documents, folder, vocab_size=512, name="mixed", sources={}, val_share=0.1, shard_tokens=2**14
    )


@pytest.fixture
def tiny_run(dataset):
    """A factory: tiny_run(steps=5, precision="fp16") is a fresh Run on the generated corpus."""
    from llmkit.train import build, tiny

    def make(**overrides):
        overrides.setdefault("steps", 20)
        return build(tiny(**overrides), dataset=dataset)

    return make
