"""Tasks 1 and 2 of the schema: the JSON type of a value, and every violation in one document."""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
Fields = dict[str, dict[str, Any]]

# ---------------------------------------------------------------------------------------------- 1. json_type


def type_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def json_type(value: Any) -> Answer:
    return Answer(value=type_of(value))


def judge_type(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if got.value not in TYPES:
        return "form"
    if got.value == want.value:
        return ""
    return want.value if want.value in ("null", "boolean") else "name"


def some_value(rng: random.Random) -> Any:
    number = rng.choice([0, 1, -7, rng.randrange(10**9)])
    text = rng.choice(["", "7", "true", "null", "x"])
    return rng.choice([None, True, False, number, float(number), 0.5, text, [], [1], {}, {"a": 1}])


def hidden_type(rng: random.Random) -> list[Case]:
    values = [None, True, False, 0, 1, rng.randrange(99), 1.0, rng.random(), "", "1", [], [[]], {}, {"a": 1}]
    rng.shuffle(values)
    return [Case(value=value) for value in values]


TYPE = Task(
    name="json_type",
    lines=10,
    reference=json_type,
    judge=judge_type,
    properties={
        "form": Property(
            "the answer is null, boolean, integer, number, string, array or object, as text",
            "what are the types called in JSON?",
        ),
        "null": Property("None is null", "what becomes of `null` when it is read?"),
        "boolean": Property("True and False are booleans, not integers", "what is `isinstance(True, int)`?"),
        "name": Property(
            "every other value has the type that it was read as: 1 an integer, 1.0 a number",
            "which Python type does `json.loads` make of it?",
        ),
    },
    public=tuple(Case(value=v) for v in (None, True, False, 1, 1.0, 0, "", "1", [], {}, [1], {"a": 1})),
    hidden=hidden_type,
    hints=(
        "Only seven Python types can come out of `json.loads`.",
        "`isinstance(True, int)` is True: ask for booleans before integers, or ask for `type(value)`.",
        "A dict from the type to the name does it: `{bool: 'boolean', int: 'integer', ...}[type(value)]`.",
    ),
)

# ----------------------------------------------------------------------------------------- 2. check_document


def violations_of(document: Any, fields: Fields) -> list[list[str]]:
    if not isinstance(document, dict):
        return [["", type_of(document)]]
    found = []
    for name, rule in fields.items():
        if name not in document:
            found += [[name, "missing"]] if rule["required"] else []
        elif wrong := fault_of(document[name], rule["type"]):
            found.append([name, wrong])
    return found


def fault_of(value: Any, wanted: str) -> str:
    kind = type_of(value)
    if kind != wanted and (kind, wanted) != ("integer", "number"):
        return kind
    if kind == "string" and not value.strip():
        return "blank"
    if kind == "string" and any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        return "half character"
    if wanted == "integer" and value < 0:
        return "negative"
    return "infinite" if kind == "number" and not math.isfinite(value) else ""


def check_document(document: Any, fields: Fields) -> Answer:
    return Answer(value=violations_of(document, fields))


def rows_of(value: Any, width: int) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and len(row) == width for row in value)


SAYS = {"missing", "null", "blank", "half character", "negative", "infinite"}


def judge_document(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not rows_of(found, 2) or not all(type(v) is str for row in found for v in row):
        return "form"
    if found == right:
        return ""
    lost = [row for row in right if row not in found]
    if not isinstance(inputs["document"], dict):
        return "object"
    if lost and found and found == right[: len(found)]:
        return "all"
    if lost:
        return lost[0][1].replace("half character", "half") if lost[0][1] in SAYS else "type"
    return "order" if sorted(found) == sorted(right) else "quiet"


FIELDS: Fields = {
    "text": {"type": "string", "required": True},
    "id": {"type": "integer", "required": True},
    "score": {"type": "number", "required": False},
    "source": {"type": "string", "required": False},
}
GOOD: dict[str, Any] = {"text": "a b", "id": 0}


def broken(rng: random.Random, fields: Fields, share: float) -> dict[str, Any]:
    """A document in which about `share` of the fields are wrong or left out."""
    good = {"string": "some text", "integer": rng.randrange(999), "number": rng.random()}
    bad = {
        "string": [" \n", "", "x\ud83d", 3],
        "integer": [-1, True, 2.0],
        "number": [math.inf, "0.5", False],
    }
    document: dict[str, Any] = {"other": None}
    for name, rule in rng.sample(sorted(fields.items()), len(fields)):
        if rng.random() >= share:
            document[name] = good[rule["type"]]
        elif rng.random() < 0.75:
            document[name] = rng.choice([None, [], {}, *bad[rule["type"]]])
    return document


def some_fields(rng: random.Random) -> Fields:
    names = rng.sample(["text", "id", "url", "length", "score", "quality", "lang"], 5)
    types = [
        *rng.sample(["string", "integer", "number"], 3),
        *rng.choices(["string", "integer", "number"], k=2),
    ]
    required = [True, False, *rng.choices([True, False], k=3)]
    rng.shuffle(required)
    return {n: {"type": t, "required": r} for n, t, r in zip(names, types, required, strict=True)}


def hidden_document(rng: random.Random) -> list[Case]:
    cases = []
    for share in (0.0, 0.3, 0.3, 0.6, 0.6, 0.9, 1.0):
        fields = some_fields(rng)
        cases.append(Case(document=broken(rng, fields, share), fields=fields))
    rules = {
        f"{t}{r}": {"type": t, "required": r == "!"} for t in ("string", "integer", "number") for r in "!?"
    }
    filled = {"string": "x", "integer": 0, "number": -2}
    whole = {name: filled[rule["type"]] for name, rule in rules.items()}
    for t, values in {
        "string": ["\t", "\udfff", None],
        "integer": [-3, True, 4.0],
        "number": [-math.inf],
    }.items():
        cases += [Case(document={**whole, t + "?": value}, fields=rules) for value in values]
    cases.append(Case(document=dict(reversed(whole.items())), fields=rules))
    cases.append(Case(document=dict.fromkeys(rules), fields=rules))
    return [
        *cases,
        Case(document={}, fields=rules),
        Case(document=rng.choice([None, 3, "text", []]), fields=rules),
    ]


def document_case(changed: dict[str, Any], drop: tuple[str, ...] = ()) -> Case:
    document = {name: value for name, value in {**GOOD, **changed}.items() if name not in drop}
    return Case(document=document, fields=FIELDS)


DOCUMENT = Task(
    name="check_document",
    lines=18,
    reference=check_document,
    judge=judge_document,
    properties={
        "form": Property(
            "violations are a list of (field, found), both text; an empty list if there is none",
            "what does the caller print?",
        ),
        "object": Property(
            "a document that is no object is one violation: no field, and its type",
            "what does `in` say about a list, or about text?",
        ),
        "missing": Property(
            "a required field that is not there is missing", "is there a difference between absent and null?"
        ),
        "null": Property(
            "null is a type like another: wrong, also in a field that is not required",
            "what does `document.get(name)` return for null, and for absent?",
        ),
        "type": Property(
            "a value of another type is reported by its type; only an integer serves as a number",
            "is True an integer here? Is 2.0?",
        ),
        "blank": Property(
            "a string must hold more than white space", "how many tokens has a text of blanks?"
        ),
        "half": Property(
            "a string must not hold half a character (U+D800 to U+DFFF)",
            "what happens when this text is written as UTF-8?",
        ),
        "negative": Property("an integer field must not be negative", "is -1 a length?"),
        "infinite": Property("a number must be finite", "what does `json.loads('1e999')` return?"),
        "all": Property("every violation is reported, not only the first", "does your check stop early?"),
        "quiet": Property(
            "nothing else is a violation: absent optional fields, unknown fields, 0, negative numbers",
            "which rule of the contract does this value break?",
        ),
        "order": Property("violations come in the order of `fields`", "over what does your loop go?"),
    },
    public=(
        document_case({}),
        document_case({"score": 2, "source": "web", "new": None}),
        document_case({"score": -0.5}),
        document_case({}, drop=("id",)),
        document_case({"id": "7"}),
        document_case({"id": True}),
        document_case({"id": 7.0}),
        document_case({"source": None}),
        document_case({"text": " \n"}),
        document_case({"text": "a\ud83d"}),
        document_case({"id": -1}),
        document_case({"score": math.inf}),
        document_case({"score": True}),
        document_case({"text": "", "id": None, "score": "high"}),
        Case(document={"source": "", "text": ""}, fields=FIELDS),
        Case(document=["text", "id"], fields=FIELDS),
        Case(document=None, fields=FIELDS),
    ),
    hidden=hidden_document,
    hints=(
        "Loop over `fields.items()`. Each is absent, of the wrong type, or right in type and wrong in value.",
        "`json_type` tells the types apart. Report one thing per field, in the contract's order.",
        "`any('\\ud800' <= c <= '\\udfff' for c in value)` finds halves, `math.isfinite` infinities.",
    ),
)
