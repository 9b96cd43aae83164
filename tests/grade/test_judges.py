"""Protects: every grader refuses its planted wrong solutions, each for its own reason, and accepts right ones.

pytest tests/grade/test_judges.py -k 01_loss
"""

from __future__ import annotations

import random

import pytest

from llmkit.grade.exercise import ROUNDS, catalog, load, source
from llmkit.grade.verdict import ERROR, FAIL, PASS, judge

DRAWS = 4  # of hidden inputs: a wrong solution must fail on each, a right one pass on each


def planted(kind: str) -> list:
    """(exercise, task, name or number) of every planted solution."""
    found = []
    for exercise in catalog():
        for task, solutions in getattr(source(exercise, "planted"), kind).items():
            names = solutions if isinstance(solutions, dict) else range(len(solutions))
            found += [pytest.param(exercise, task, name, id=f"{exercise} {task}: {name}") for name in names]
    return found


def verdict_of(function, task, seed: int, public: bool = True):
    cases = [*(task.public if public else ()), *task.hidden(random.Random(seed))]
    return judge(task, cases, task.call(function, cases))


@pytest.mark.parametrize("exercise, task, name", planted("WRONG"))
def test_a_wrong_solution_is_refused_for_its_own_reason_and_by_hidden_inputs_alone(exercise, task, name):
    function, key = source(exercise, "planted").WRONG[task][name]
    task = load(exercise).task(task)
    assert verdict_of(function, task, seed=0, public=False).status != PASS
    cases = list(task.public)
    verdict = judge(task, cases, task.call(function, cases))
    if key:
        assert (verdict.status, verdict.failing) == (FAIL, task.properties[key].says)
        assert verdict.asks == task.properties[key].asks
    else:
        assert verdict.status == ERROR
    assert verdict.example is not None, "every planted wrong solution has a public counter-example"


@pytest.mark.parametrize("exercise, task, number", planted("RIGHT"))
def test_a_right_solution_in_another_style_passes(exercise, task, number):
    function = source(exercise, "planted").RIGHT[task][number]
    verdict = verdict_of(function, load(exercise).task(task), seed=0)
    assert verdict.status == PASS, verdict


@pytest.mark.slow
@pytest.mark.parametrize("exercise", catalog())
def test_the_same_on_other_draws_of_hidden_inputs(exercise):
    found = source(exercise, "planted")
    for task in load(exercise).tasks:
        for seed in range(1, DRAWS):
            for title, (function, _) in found.WRONG[task.name].items():
                assert verdict_of(function, task, seed, public=False).status != PASS, (task.name, title)
            for function in found.RIGHT[task.name]:
                assert verdict_of(function, task, seed).status == PASS, (task.name, function)


@pytest.mark.parametrize("name", catalog())
def test_every_task_has_eight_wrong_and_three_right_solutions_and_all_its_properties_are_reached(name):
    found = source(name, "planted")
    exercise = load(name)
    assert set(found.WRONG) == set(found.RIGHT) == {task.name for task in exercise.tasks}
    for task in exercise.tasks:
        assert len(found.WRONG[task.name]) >= 8
        assert len(found.RIGHT[task.name]) >= 3
        assert {key for _, key in found.WRONG[task.name].values() if key} == set(task.properties)


@pytest.mark.parametrize("name", catalog())
def test_an_exercise_is_tagged_and_its_tasks_have_three_hints(name):
    exercise = load(name)
    assert exercise.name == name
    assert exercise.round in ROUNDS
    assert exercise.difficulty in (1, 2, 3)
    assert 15 <= exercise.minutes <= 45
    assert exercise.rows and all(row[0] in "SC" and row[1:].isdigit() for row in exercise.rows)
    assert all(len(set(task.hints)) == 3 for task in exercise.tasks)


@pytest.mark.parametrize("name", catalog())
def test_hidden_inputs_differ_from_draw_to_draw_and_repeat_with_the_seed(name):
    for task in load(name).tasks:
        draws = [repr(task.hidden(random.Random(seed))) for seed in (1, 2, 1)]
        assert draws[0] == draws[2] != draws[1]


@pytest.mark.parametrize("name", catalog())
def test_the_driver_that_travels_names_no_reference(name):
    for task in load(name).tasks:
        assert "reference" not in task.drive_source
        assert task.reference.__name__ not in task.drive_source.replace(task.name, "")
