"""Protects the numbers of the drawing: they are those of the calculator.

pytest tests/cost/test_stations.py
"""

from __future__ import annotations

from llmkit.cost import job_of, run_cost
from llmkit.cost.stations import headline, stations

JOB = job_of({"model": "gpt3-2.7b", "name": "2.7B", "tokens": "60B", "gpus": 32, "gpu": "A100-SXM-80", "batch": 512,
              "micro_batch": 4, "zero": 0})  # fmt: skip


def test_a_token_passes_eight_stations():
    way = {station.title: station for station in stations(JOB)}
    assert list(way) == [
        "shards", "loader", "micro-batches", "forward, backward", "accumulation", "all-reduce", "optimizer",
        "checkpoints",
    ]  # fmt: skip
    assert way["shards"].lines == ("60 G tokens", "120 GB")  # two bytes a token below 65,536 ids
    assert way["micro-batches"].lines[0] == "4 x 4 sequences a rank"
    assert way["accumulation"].lines[1] == "10.6 GB kept"  # 2.65e9 x 4 B
    assert way["optimizer"].passes == "37.1 GB"  # 14 B a parameter
    assert way["checkpoints"].lines[0] == "3 kept: 111 GB"


def test_the_foot_says_what_it_takes_with_its_interval():
    what, takes = headline(JOB)
    assert what == "2.7B: 2.65 G parameters, 4 x 8 A100-SXM-80, data x tensor x pipeline 32 x 1 x 1"
    assert str(run_cost(JOB)) in takes and takes.count(" to ") == 4


def test_a_large_vocabulary_needs_four_bytes_a_token_and_shards_say_what_they_do():
    llama = job_of(JOB, model=job_of({"model": "llama3-8b", "tokens": 1, "gpus": 1, "gpu": "H100-SXM", "batch": 1}).model,
                   zero=3)  # fmt: skip
    way = stations(llama)
    assert way[0].lines[1] == "240 GB" and way[5].title == "scatter, gather"
