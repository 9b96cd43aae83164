"""Wrong solutions of exercise 03, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["check_document"]["takes True for an integer"]
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

from .documents import type_of, violations_of
from .files import line_violations, refuse

# ----------------------------------------------------------------------------------------------- wrong: type


def _by_instance(value):
    kinds = ((int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _type(**changed):
    return lambda value: changed.get(type_of(value), type_of(value))


WRONG_TYPE = {
    "takes booleans for integers": (_by_instance, "boolean"),
    "takes False for null": (lambda v: "null" if not v and type(v) is not int else type_of(v), "boolean"),
    "takes 0 and 1 for booleans": (lambda v: "boolean" if v in (0, 1) else type_of(v), "name"),
    "takes floats for integers": (
        lambda v: "integer" if isinstance(v, float) and v == int(v) else type_of(v),
        "name",
    ),
    "calls integers numbers": (_type(integer="number"), "name"),
    "reads numbers in strings": (lambda v: "integer" if v == "1" else type_of(v), "name"),
    "calls null an object": (_type(null="object"), "null"),
    "calls an empty list null": (lambda v: "null" if v == [] else type_of(v), "name"),
    "calls objects arrays": (_type(object="array"), "name"),
    "says Python's names": (lambda v: type(v).__name__, "form"),
    "writes capitals": (lambda v: type_of(v).title(), "form"),
    "says null by nothing": (lambda v: None if v is None else type_of(v), "form"),
    "knows no null": (
        lambda v: {
            bool: "boolean",
            int: "integer",
            float: "number",
            str: "string",
            list: "array",
            dict: "object",
        }[type(v)],
        "",
    ),
}

# ------------------------------------------------------------------------------------------- wrong: document


def _document(
    kind=type_of,
    absent=lambda d, n: n not in d,
    skip=lambda rule, d, n: False,
    rules=None,
    some=list,
    fits=lambda kind, wanted: kind == wanted or (kind, wanted) == ("integer", "number"),
    top=True,
):
    """The check with one part replaced; `rules` are those of a value of the right type."""
    rules = {**RULES, **(rules or {})}

    def check_document(document, fields):
        if top and not isinstance(document, dict):
            return [("", kind(document))]
        found = []
        for name, rule in fields.items():
            if absent(document, name):
                found += [(name, "missing")] if rule["required"] else []
            elif not skip(rule, document, name):
                value = document[name]
                if not fits(kind(value), rule["type"]):
                    found.append((name, kind(value)))
                else:
                    says = [says for says, holds in rules.items() if holds(value, rule["type"])]
                    found += [(name, says[0])] if says else []
        return some(found)

    return check_document


RULES = {
    "blank": lambda value, wanted: wanted == "string" and not value.strip(),
    "half character": lambda value, wanted: (
        wanted == "string" and any("\ud800" <= c <= "\udfff" for c in value)
    ),
    "negative": lambda value, wanted: wanted == "integer" and value < 0,
    "infinite": lambda value, wanted: wanted == "number" and math.isinf(value),
}


def _never(value, wanted):
    return False


def _unknown_too(document, fields):
    found = violations_of(document, fields)
    return (
        found + [(n, "unknown") for n in document if n not in fields] if isinstance(document, dict) else found
    )


def _document_order(document, fields):
    found = violations_of(document, fields)
    if not isinstance(document, dict):
        return found
    places = {name: i for i, name in enumerate(document)}
    return sorted(found, key=lambda row: places.get(row[0], 99))


WRONG_DOCUMENT = {
    "passes everything": (lambda document, fields: [], "missing"),
    "stops at the first": (_document(some=lambda found: found[:1]), "all"),
    "takes True for an integer": (_document(kind=_by_instance), "type"),
    "takes 7.0 for an integer": (
        _document(fits=lambda k, w: k == w or {k, w} == {"integer", "number"}),
        "type",
    ),
    "wants floats for numbers": (_document(fits=lambda k, w: k == w), "quiet"),
    "takes null for absent": (_document(absent=lambda d, n: d.get(n) is None), "null"),
    "lets null pass in optional fields": (
        _document(skip=lambda rule, d, n: d[n] is None and not rule["required"]),
        "null",
    ),
    "looks at required fields only": (_document(skip=lambda rule, d, n: not rule["required"]), "null"),
    "takes false values for absent": (_document(absent=lambda d, n: not d.get(n)), "quiet"),
    "wants every field": (
        lambda document, fields: violations_of(
            document, {n: {**r, "required": True} for n, r in fields.items()}
        ),
        "quiet",
    ),
    "reports unknown fields": (_unknown_too, "quiet"),
    "lets empty text pass": (_document(rules={"blank": _never}), "blank"),
    "takes the empty string alone for blank": (
        _document(rules={"blank": lambda v, w: v == ""}),
        "blank",
    ),
    "lets half characters pass": (_document(rules={"half character": _never}), "half"),
    "lets negative integers pass": (_document(rules={"negative": _never}), "negative"),
    "takes 0 for negative": (_document(rules={"negative": lambda v, w: w == "integer" and v <= 0}), "quiet"),
    "forbids negative numbers": (
        _document(rules={"negative": lambda v, w: w != "string" and v < 0}),
        "quiet",
    ),
    "lets infinities pass": (_document(rules={"infinite": _never}), "infinite"),
    "sees plus infinity only": (
        _document(rules={"infinite": lambda v, w: v == math.inf, "blank": lambda v, w: v == ""}),
        "blank",
    ),
    "reports in the document's order": (_document_order, "order"),
    "passes what is no object": (
        lambda document, fields: violations_of(document, fields) if isinstance(document, dict) else [],
        "object",
    ),
    "returns names only": (lambda document, fields: [n for n, _ in violations_of(document, fields)], "form"),
    "returns True or False": (lambda document, fields: not violations_of(document, fields), "form"),
    "returns a dict": (lambda document, fields: dict(violations_of(document, fields)), "form"),
    "indexes whatever comes": (_document(top=False), ""),
}

# ----------------------------------------------------------------------------------------------- wrong: file


def _file(
    split=lambda data: _lines(data),
    look=line_violations,
    start=1,
    first=True,
    valid=True,
    stop=(),
    empty=True,
    skip=(),
    own_first=False,
):
    """The check with one part replaced."""

    def check_file(path, fields):
        data, found, seen = Path(path).read_bytes(), [], {}
        for number, line in enumerate(split(data), start):
            wrong, document = look(line, fields)
            mine = [(number, *row) for row in wrong if row[1] not in skip]
            if (
                isinstance(document, dict)
                and "id" in document
                and not (valid and any(r[0] == "id" for r in wrong))
            ):
                key = repr(document["id"])
                at = seen.setdefault(key, number)
                again = [(number, "id", f"seen on line {at}")] if at < number else []
                mine = again + mine if own_first else mine + again
                seen[key] = at if first else number
            found += mine
            if any(row[1] in stop for row in wrong):
                break
        return found or ([(0, "", "no document")] if empty and not data else [])

    return check_file


def _lines(data):
    rows = data.split(b"\n")
    return rows if rows[-1] else rows[:-1]


def _as_text(data):
    return [line.encode() for line in data.decode("utf-8", "replace").splitlines()]


def _python_json(line, fields):
    try:
        document = json.loads(line)
    except ValueError:
        return line_violations(line, fields)
    return violations_of(document, fields), document


def _replaced(line, fields):
    return line_violations(line.decode("utf-8", "replace").encode(), fields)


def _latin(line, fields):
    return line_violations(line.decode("latin-1").encode(), fields)


def _no_documents(line, fields):
    wrong, document = line_violations(line, fields)
    return (wrong if document is None else []), document


def _first_only(line, fields):
    wrong, document = line_violations(line, fields)
    return wrong[:1], document


def _no_ids(path, fields):
    return [row for row in _check_file(path, fields) if not row[2].startswith("seen")]


def _adjacent_ids(path, fields):
    """Compares with the line before only."""
    rows = _check_file(path, fields)
    return [row for row in rows if not row[2].startswith("seen") or row[2] == f"seen on line {row[0] - 1}"]


def _decodes_whole(path, fields):
    Path(path).read_text(encoding="utf-8")
    return _check_file(path, fields)


def _a_last_line(data):
    return data.split(b"\n") if data else []


_check_file = _file()

WRONG_FILE = {
    "passes everything": (lambda path, fields: [], "none"),
    "passes an empty file": (_file(empty=False), "none"),
    "checks JSON only": (_file(look=_no_documents), "document"),
    "reports one violation a line": (_file(look=_first_only), "document"),
    "skips lines that are not JSON": (_file(skip=("not JSON",)), "json"),
    "reads NaN": (_file(look=_python_json), "json"),
    "skips lines that are not UTF-8": (_file(skip=("not UTF-8",)), "utf8"),
    "replaces what is not UTF-8": (_file(look=_replaced), "utf8"),
    "reads Latin-1": (_file(look=_latin), "utf8"),
    "skips blank lines": (_file(skip=("blank line",)), "blank"),
    "does not count blank lines": (_file(split=lambda d: [x for x in _lines(d) if x.strip()]), "blank"),
    "splits at U+2028": (_file(split=_as_text), "utf8"),
    "splits at U+2028, bytes kept": (
        _file(
            split=lambda d: [
                x.encode("utf-8", "surrogateescape")
                for x in d.decode("utf-8", "surrogateescape").splitlines()
            ]
        ),
        "document",
    ),
    "takes the end for a line": (_file(split=_a_last_line), "quiet"),
    "counts from 0": (_file(start=0), "line"),
    "stops at a broken line": (_file(stop=("not UTF-8", "not JSON", "blank line")), "all"),
    "looks for no repeated ids": (_no_ids, "twice"),
    "compares ids with the line before": (_adjacent_ids, "twice"),
    "names the last line with the id": (_file(first=False), "twice"),
    "counts wrong ids too": (_file(valid=False), "quiet"),
    "looks at ids first": (_file(own_first=True), "order"),
    "returns lines as text": (lambda p, f: [(str(n), a, b) for n, a, b in _check_file(p, f)], "form"),
    "returns no lines": (lambda p, f: [row[1:] for row in _check_file(p, f)], "form"),
    "decodes the whole file": (_decodes_whole, ""),
}

WRONG = {"json_type": WRONG_TYPE, "check_document": WRONG_DOCUMENT, "check_file": WRONG_FILE}

# ---------------------------------------------------------------------------------- right ones, other styles


def type_instances(value):
    if isinstance(value, bool):
        return "boolean"
    return _by_instance(value)


def type_match(value):
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def type_by_json(value):
    text = json.dumps(value)
    by_letter = {"n": "null", "t": "boolean", "f": "boolean", '"': "string", "[": "array", "{": "object"}
    return by_letter.get(text[0]) or ("number" if set(text) & set(".eIN") else "integer")


def document_generator(document, fields):
    return list(_each(document, fields))


def _each(document, fields):
    if not isinstance(document, dict):
        yield ["", type_match(document)]
        return
    for name in fields:
        wanted = fields[name]["type"]
        if name in document:
            value = document[name]
            kind = type_match(value)
            if kind not in ({wanted, "integer"} if wanted == "number" else {wanted}):
                yield [name, kind]
            elif wanted == "string":
                if not value or value.isspace():
                    yield [name, "blank"]
                elif value.encode("utf-8", "ignore").decode() != value:
                    yield [name, "half character"]
            elif wanted == "integer" and value < 0:
                yield [name, "negative"]
            elif abs(value) == math.inf:
                yield [name, "infinite"]
        elif fields[name]["required"]:
            yield [name, "missing"]


def file_by_bytes(path, fields):
    """Splits by hand, and parses bytes."""
    data = Path(path).read_bytes()
    if not data:
        return [[0, "", "no document"]]
    found, seen = [], {}
    for i, line in enumerate(data.removesuffix(b"\n").split(b"\n")):
        wrong, document = [], None
        try:
            text = str(line, "utf-8")
        except UnicodeError:
            wrong = [("", "not UTF-8")]
        else:
            try:
                document = json.loads(text, parse_constant=refuse)
                wrong = document_generator(document, fields)
            except ValueError:
                wrong = [("", "not JSON" if text.strip() else "blank line")]
        found.extend((i + 1, a, b) for a, b in wrong)
        if isinstance(document, dict) and type(document.get("id")) is int and document["id"] >= 0:
            if document["id"] in seen:
                found.append((i + 1, "id", "seen on line " + str(seen[document["id"]])))
            else:
                seen[document["id"]] = i + 1
    return found


def file_by_newline(path, fields):
    """Text mode with a line feed as the only line end; bad bytes come through as half characters."""
    found, seen, count = [], {}, 0
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for count, line in enumerate(file, 1):
            rows, document = line_violations(line.encode("utf-8", "surrogateescape"), fields)
            found += [[count, *row] for row in rows]
            if isinstance(document, dict) and "id" in document and "id" not in [name for name, _ in rows]:
                at = seen.setdefault(document["id"], count)
                if at != count:
                    found += [[count, "id", f"seen on line {at}"]]
    return found if count else [[0, "", "no document"]]


RIGHT = {
    "json_type": [type_instances, type_match, type_by_json],
    "check_document": [document_generator, _document(), partial(violations_of)],
    "check_file": [file_by_bytes, file_by_newline, _check_file],
}
