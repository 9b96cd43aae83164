"""Protects `llmkit cost` and `llmkit diagram`: shipped jobs, a file of one's own, JSON, refusals word for word.

pytest tests/cli/test_cost.py
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from llmkit.cli import app
from llmkit.cli.cost_verbs import read_job
from llmkit.cost import gpu_hours, shape_of, step_time
from llmkit.errors import ConfigError

JOB = """
model: gpt3-13b
tokens: 100B
gpus: 64
gpu: H100-SXM
batch: 1024
limits: {gpu_hours: 12k}
"""


def call(*words, code=0):
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_shipped_job_has_a_verdict_on_each_of_its_limits():
    lines = call("cost", "run", "2.7b").splitlines()
    assert lines[0] == "2.7b: 32 x A100-SXM-80"
    assert [line.split(":")[0].strip() for line in lines[-4:]] == ["memory", "budget", "token", "first token"]


def test_the_working_is_printed_with_formula_and_source():
    text = call("cost", "run", "2.7b", "--explain")
    assert "\nparameters: 2,651,553,280 parameters  = embedding + " in text
    assert "  head: 0 parameters  = 0 if tied, else V C" in text and "Korthikanti et al. 2022" in text


def test_a_file_is_read_and_a_field_is_changed(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    job, limits = read_job(str(tmp_path / "job.yaml"), ["gpus=128", "tokens=1T"])
    assert (job.gpus, job.tokens, limits.gpu_hours) == (128, 10**12, 12_000)
    plain = json.loads(call("cost", "run", str(tmp_path / "job.yaml"), "--json", code=1))
    (hours,) = (q["value"] for q in plain["quantities"] if q["name"] == "GPU-hours")
    assert hours == pytest.approx(float(gpu_hours(read_job(str(tmp_path / "job.yaml"))[0])))
    assert [v["answer"] for v in plain["verdicts"]] == ["no", "yes"]  # unsharded 13B: 100 GB and more


def test_two_shipped_jobs_compare():
    plain = json.loads(call("cost", "compare", "7b-dense", "7b-moe", "--json"))
    assert plain["naive"] == pytest.approx(-0.227, abs=0.002)
    text = call("cost", "compare", "7b-dense", "7b-moe", "--change-dollars", "20000")
    assert "training FLOPs alone say -22.7%" in text and "turns if a mixture reaches 0.7" in text


def test_three_steps_calibrate():
    plain = json.loads(
        call("cost", "calibrate", "2.7b", "--step", "3.4", "--step", "3.5", "--step", "3.4", "--json")
    )
    assert plain["mfu"]["value"] == pytest.approx(0.547, abs=0.001)
    (step,) = (q for q in plain["estimate"]["quantities"] if q["name"] == "step")
    assert step["value"] == pytest.approx(10.3 / 3) and step["high"] / step["low"] < 1.15


def test_an_incident_is_priced_by_the_step_the_size_and_the_price_of_the_job():
    plan, _ = read_job("2.7b")
    hours = 32 * (100 * float(step_time(plan)) + 900) / 3600
    (cost,) = json.loads(call("cost", "incident", "2.7b", "--lost-steps", "100", "--down", "15m", "--json"))
    assert cost["value"] == pytest.approx(hours * plan.hardware.dollars_typical)
    ends = [s * p for s, p in zip(
        (32 * (100 * s + 900) / 3600 for s in step_time(plan).interval), plan.hardware.price().interval, strict=True
    )]  # fmt: skip
    assert [cost["low"], cost["high"]] == pytest.approx(ends)
    text = call("cost", "incident", "2.7b", "--down", "4h", "--set", "dollars_per_gpu_hour=2", "--explain")
    assert text.splitlines()[:2] == [
        "incident: $256  = GPU-hours lost x price", "  GPU-hours lost: 128 GPU-hours  = time lost x 32 GPUs / 3600",
    ]  # fmt: skip


def test_a_later_detection_costs_in_proportion():
    seen = "--set", "dollars_per_gpu_hour=2", "--chance", "0.5", "--json"
    late, soon, saved = json.loads(
        call("cost", "incident", "2.7b", "--unseen", "3d", "--instead", "36h", *seen)
    )
    assert late["value"] == pytest.approx(0.5 * 72 * 32 * 2) == 2 * soon["value"] == 2 * saved["value"]
    later = json.loads(call("cost", "incident", "2.7b", "--unseen", "1h", "--instead", "60m", *seen))
    assert later[2]["value"] == 0
    slower = json.loads(call("cost", "incident", "2.7b", "--unseen", "60s", "--instead", "1h", *seen))
    assert slower[2]["value"] == pytest.approx(-0.5 * 59 / 60 * 32 * 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing was lost\n  expected: lost steps, a time down, or bad data for some time"),
        (("--down", "4"), "`4` is no duration\n  expected: a number and its unit: 90s, 15m, 4h or 3d"),
        (("--down", "-4h"), "`-4h` is no duration\n  expected: a number and its unit: 90s, 15m, 4h or 3d"),
        (("--unseen", ""), "`` is no duration\n  expected: a number and its unit: 90s, 15m, 4h or 3d"),
        (("--lost-steps", "-3"), "lost_steps is -3\n  expected: lost_steps >= 0"),
        (("--chance", "0.2"), "--instead and --chance speak of bad data\n  remedy: give --unseen as well"),
        (("--instead", "2h"), "--instead and --chance speak of bad data\n  remedy: give --unseen as well"),
        (("--unseen", "3d", "--chance", "2"), "chance is 2.0\n  expected: 0 to 1"),
        (
            ("--unseen", "3d", "--lost-steps", "3"),
            "all steps since the bad data began are lost\n  remedy: leave lost steps out",
        ),
    ],
)
def test_an_incident_that_cannot_be_is_refused_word_for_word(words, says):
    with pytest.raises(ConfigError) as caught:
        call("cost", "incident", "2.7b", *words)
    assert str(caught.value) == says


def test_serving_optimum_and_prices():
    first, token, memory = json.loads(call("cost", "serve", "llama3-8b", "--batch", "16", "--json"))
    assert first["value"] > token["value"] and memory["unit"] == "B"
    rows = call("cost", "optimal", "5.76e23").splitlines()
    assert rows[1].startswith("besiroglu  72.2 G parameters  1.33 T tokens")
    prices = json.loads(call("cost", "prices", "--json"))
    assert prices["H100-SXM"]["price_date"] == "2026-05"


def test_a_run_is_drawn_twice_to_the_same_bytes(tmp_path):
    a, b = tmp_path / "a.svg", tmp_path / "b.svg"
    assert call("diagram", "2.7b", "--out", str(a)) == f"{a}\n"
    call("diagram", "2.7b", "--out", str(b))
    assert a.read_bytes() == b.read_bytes()
    text = a.read_text()
    assert all(
        f"<!-- {name} -->" in text for name in ("shards", "loader", "optimizer", "checkpoints", "node 3")
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("2.7",), "no job `2.7`\n  expected: a YAML file\n  remedy: use `2.7b`"),
        (("2.7b", "gpu=A100-SXM-60"), "unknown accelerator `A100-SXM-60`\n  remedy: use `A100-SXM-80`"),
        (("2.7b", "tokens=60 GB"), "tokens is `60 GB`\n  expected: a number, or one with k, M, B or T"),
        (("2.7b", "limits={gpu_hour: 3}"), "a limit has no `gpu_hour`\n  remedy: use `gpu_hours`"),
        (("2.7b", "model={layerz: 3}"), "a model has no `layerz`\n  remedy: use `layers`"),
        (("2.7b", "tp=[1"), "cannot read `2.7b` as YAML: while parsing a flow sequence"),
    ],
)
def test_refusals(words, says):
    with pytest.raises(ConfigError) as caught:
        read_job(words[0], list(words[1:]))
    assert str(caught.value) == says


def test_a_file_that_is_no_job_is_refused(tmp_path):
    for name, text in (("list", "- 1\n"), ("empty", ""), ("binary", "\x00")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=r"cannot read|lacks"):
            read_job(str(tmp_path / name))


def test_shipped_jobs_spell_the_models_out_as_the_machine_names_them():
    dense, mixture = (read_job(name)[0].model for name in ("7b-dense", "7b-moe"))
    assert dense == shape_of(vars(dense) | {"mlp_hidden": dense.hidden}) and mixture.visited() == 2


def test_another_format_is_refused(tmp_path):
    from llmkit.show.diagram import diagram

    with pytest.raises(ConfigError) as caught:
        diagram(read_job("2.7b")[0], tmp_path / "run.bmp")
    assert str(caught.value) == "cannot draw `run.bmp`\n  expected: a name in .svg, .png, .pdf"
