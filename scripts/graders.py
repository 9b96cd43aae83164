"""The kill table: per exercise and task, how many planted wrong solutions its judge refuses, and right ones
it accepts.

    python scripts/graders.py        # writes docs/graders.md; a test compares it with what would be written
"""

from __future__ import annotations

from pathlib import Path

from author import Kills, kill_counts

from llmkit.folder import write_whole
from llmkit.grade.exercise import catalog

PAGE = Path(__file__).resolve().parent.parent / "docs" / "graders.md"
HEAD = """# The graders, graded

Each task has wrong solutions planted in `exercises_src/NN_name/planted.py`, of the kinds people really
write, and right ones in other styles. Its judge must refuse the first, naming the property that was planted,
and accept the second. `python scripts/graders.py` makes this page by running them all on public and hidden
inputs; a test fails when it is out of date. `tests/grade/test_judges.py` tries them on one draw
of hidden inputs alone, in `make test-all` on four.

"""
COLUMNS = ("exercise", "task", "wrong", "refused", "by the planted property", "right", "accepted")
NUMBERS = ("wrong", "refused", "named", "right", "accepted")


def page(rows: list[Kills]) -> str:
    """The page's text: totals first, then a row per task."""
    total = {name: sum(getattr(row, name) for row in rows) for name in NUMBERS}
    accepted, refused = total["wrong"] - total["refused"], total["right"] - total["accepted"]
    sentence = (
        f"**{total['refused']} of {total['wrong']} wrong solutions refused, {accepted} accepted; "
        f"{total['accepted']} of {total['right']} right ones accepted, {refused} refused**: "
        f"{len(rows)} tasks in {len({row.exercise for row in rows})} exercises.\n\n"
    )
    lines = [COLUMNS, ("---", "---", *["---:"] * len(NUMBERS))]
    lines += [(row.exercise, f"`{row.task}`", *(getattr(row, name) for name in NUMBERS)) for row in rows]
    lines.append(("**all**", "", *(f"**{number}**" for number in total.values())))
    return HEAD + sentence + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def table() -> list[Kills]:
    """Every task of the catalog, tried now."""
    return [kills for name in catalog() for kills in kill_counts(name)]


if __name__ == "__main__":
    write_whole(PAGE, page(table()))
    print(PAGE)
