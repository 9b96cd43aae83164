"""Task 3 of the schema: every violation in a JSONL file, with its line."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

from .documents import FIELDS, Fields, broken, rows_of, violations_of


def drive_file(function, lines, end, fields):
    """The lines in a file, line feeds between them; \\udc80 to \\udcff become single bytes."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(("\n".join(lines) + end).encode("utf-8", "surrogateescape"))
        file.flush()
        return function(file.name, fields)


def refuse(constant: str) -> None:
    raise ValueError(constant)


def line_violations(line: bytes, fields: Fields) -> tuple[list[list[str]], Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return [["", "not UTF-8"]], None
    if not text.strip():
        return [["", "blank line"]], None
    try:
        document = json.loads(text, parse_constant=refuse)
    except ValueError:
        return [["", "not JSON"]], None
    return violations_of(document, fields), document


def check_file(lines: list[str], end: str, fields: Fields) -> Answer:
    data = ("\n".join(lines) + end).encode("utf-8", "surrogateescape")
    found, seen = [], {}
    rows = data.split(b"\n")
    for number, line in enumerate(rows[:-1] if not rows[-1] else rows, 1):
        wrong, document = line_violations(line, fields)
        found += [[number, *row] for row in wrong]
        if isinstance(document, dict) and "id" in document and not any(row[0] == "id" for row in wrong):
            first = seen.setdefault(document["id"], number)
            found += [[number, "id", f"seen on line {first}"]] if first < number else []
    return Answer(value=found or ([] if data else [[0, "", "no document"]]))


SAYS = {"not UTF-8": "utf8", "blank line": "blank", "not JSON": "json", "no document": "none"}


def judge_file(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not rows_of(found, 3) or not all(type(n) is int and type(f) is type(s) is str for n, f, s in found):
        return "form"
    if found == right:
        return ""
    if sorted(found) == sorted(right):
        return "order"
    if Counter((f, s) for _, f, s in found) == Counter((f, s) for _, f, s in right):
        return "line"
    lost = [row for row in right if row not in found]
    if not lost:
        return "quiet"
    if found and found == right[: len(found)] and found[-1][1] == "":
        return "all"
    says = lost[0][2]
    return "twice" if says.startswith("seen on line") else SAYS.get(says, "document")


def document(number: int, text: str = "some text", **more: Any) -> str:
    return json.dumps({"text": text, "id": number, **more}, ensure_ascii=False)


def hidden_file(rng: random.Random) -> list[Case]:
    bad = ["", " \t", "{", '{"text": "x", "id": 1,}', "nonsense", "[]", "null", '"text"', "caf\udce9"]
    bad += ['{"text": "x", "id": 5, "score": NaN}', '{"text": "x", "id": 6, "score": 1e999}', "{} {}"]
    bad += ['{"text": "caf\udce9", "id": 8}', '{"text": "x", "id": 9, "score": -Infinity}', "\r"]
    cases = []
    for share in (0.0, 0.3, 0.6):
        lines = []
        for number in range(rng.randint(8, 12)):
            line = document(number, rng.choice(["a\u2028b", "é", "日本", "x\x85y", "plain"]))
            if rng.random() < share:
                line = rng.choice(
                    [rng.choice(bad), json.dumps(broken(rng, FIELDS, 0.5)), document(rng.randint(0, 5))]
                )
            lines.append(line)
        cases.append(Case(lines=lines, end=rng.choice(["", "\n"]), fields=FIELDS))
    rng.shuffle(bad)
    for first in range(0, len(bad), 4):
        lines = [
            document(1),
            *bad[first : first + 4],
            document(2),
            document(1),
            document(1, ""),
            document(-1, ""),
            document(-1),
        ]
        cases.append(Case(lines=lines, end="\n", fields=FIELDS))
    cases.append(
        Case(lines=[document(3), "x\udcff", "{", document(4, " "), document(3)], end="\r\n", fields=FIELDS)
    )
    return [*cases, Case(lines=[], end="", fields=FIELDS), Case(lines=[], end="\n", fields=FIELDS)]


def file_case(*lines: str, end: str = "\n") -> Case:
    return Case(lines=list(lines), end=end, fields=FIELDS)


FILE = Task(
    name="check_file",
    lines=23,
    reference=check_file,
    judge=judge_file,
    drive=drive_file,
    properties={
        "form": Property(
            "violations are a list of (line, field, found): an integer and two texts", "what does CI print?"
        ),
        "none": Property(
            "a file without a byte is a violation itself: (0, '', 'no document')",
            "is a check passed by a file in which there was nothing to check?",
        ),
        "document": Property(
            "what `check_document` finds is reported with its line", "are documents that parse looked into?"
        ),
        "json": Property(
            "a line that is not JSON is reported; NaN and Infinity are not JSON",
            "what does Python's `json.loads` let through that the standard does not?",
        ),
        "utf8": Property("a line that is not UTF-8 is reported", "who decodes your lines, and when?"),
        "blank": Property(
            "a line of white space only is a blank line", "is an empty line a document, or nothing at all?"
        ),
        "twice": Property(
            "an id that an earlier line has is reported with that line, the first of them",
            "which lines share an id, and does an id that is wrong itself count?",
        ),
        "line": Property(
            "the line number is that of the file, counted from 1, a line ending at a line feed",
            "which other characters does `splitlines` take for the end of a line?",
        ),
        "all": Property(
            "after a broken line the check goes on", "what becomes of the lines after the exception?"
        ),
        "order": Property(
            "violations come line by line; a repeated id after the document's other violations",
            "when do you look at the id?",
        ),
        "quiet": Property(
            "nothing else is reported", "is the end of the file a line? Does U+2028 in a text end one?"
        ),
    },
    public=(
        file_case('{"text": "a", "id": 1}'),
        file_case('{"text": "a", "id": 1}', end=""),
        file_case(end=""),
        file_case('{"text": "", "id": -1}'),
        file_case("{"),
        file_case("\udcff"),
        file_case('{"text": "caf\udce9", "id": 1}', "{", '{"text": "a"}'),
        file_case('{"text": "a", "id": 1}', "", '{"text": "a", "id": 2}', "  "),
        file_case('{"text": "a\u2028b", "id": 1}', '{"text": " ", "id": 2}'),
        file_case('{"text": "a", "id": 1, "score": NaN}'),
        file_case('{"text": "a", "id": 1}', '{"text": "", "id": 1}', '{"text": "c", "id": 1}'),
        file_case('{"text": "a", "id": -1}', '{"text": "a", "id": -1}', "[]"),
    ),
    hidden=hidden_file,
    hints=(
        "Open the file for bytes: then a line ends at a line feed only, and a bad byte spoils one line.",
        (
            "Per line, in this order: decode, blank, parse, `check_document`, id. Each of the first three "
            "reports one violation and goes on to the next line."
        ),
        (
            "`json.loads(text, parse_constant=f)` calls `f` for NaN and Infinity: let it raise ValueError. "
            "`seen.setdefault(document['id'], number)` returns the first line of an id."
        ),
    ),
)
