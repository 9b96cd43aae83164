"""Task 3 of the manifest: which bytes of which file are not what the manifest says."""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

from .hashes import leaves_of, some_bytes

Range = list  # [name, first byte, one behind the last]


def drive_verify(function, was, now, manifest):
    """The files as they are now, in a folder. `was` shows what they were, and is not handed on."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, content in now.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content.encode("latin-1"))
        return function(folder, manifest)


def verify(was: dict[str, str], now: dict[str, str], manifest: dict[str, Any]) -> Answer:
    leaf, found = manifest["leaf"], []
    for name in sorted({**now, **manifest["shards"]}):
        if name not in now or name not in manifest["shards"]:
            found.append([name, 0, len(now.get(name, was.get(name, "")))])
            continue
        entry, data = manifest["shards"][name], now[name].encode("latin-1")
        size = entry["bytes"]
        bad = [
            [name, i * leaf, min((i + 1) * leaf, size)]
            for i, right in enumerate(entry["leaves"])
            if leaves_of(data[i * leaf : min((i + 1) * leaf, size)] or b"?", leaf)[0] != right
            or len(data) < min((i + 1) * leaf, size)
        ]
        found += merged(bad + ([[name, size, len(data)]] if len(data) > size else []))
    return Answer(value=found)


def merged(ranges: list[Range]) -> list[Range]:
    out: list[Range] = []
    for name, first, end in ranges:
        if out and out[-1][2] == first:
            out[-1] = [name, out[-1][1], end]
        else:
            out.append([name, first, end])
    return out


def judge_verify(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    rows = isinstance(found, list) and all(isinstance(r, list) and len(r) == 3 for r in found)
    if not rows or not all(type(n) is str and type(a) is int and type(b) is int for n, a, b in found):
        return "form"
    if found == want.value:
        return ""
    if sorted(found) == sorted(want.value):
        return "sorted"
    named = {name for name, _, _ in want.value}
    if any(name not in named for name, _, _ in found):
        return "clean"
    shards, now = inputs["manifest"]["shards"], inputs["now"]
    for name in sorted(named):
        mine, right = ([row[1:] for row in rows if row[0] == name] for rows in (found, want.value))
        if mine == right:
            continue
        if name not in now:
            return "missing"
        if name not in shards:
            return "extra"
        if len(now[name]) != shards[name]["bytes"]:
            return "short" if len(now[name]) < shards[name]["bytes"] else "long"
        covered = [{b for first, end in some for b in range(first, end)} for some in (mine, right)]
        filled = len(mine) < len(right) and covered[0] > covered[1]
        return "range" if filled or covered[0] == covered[1] else "leaf"
    return "form"


def verify_case(was: dict[str, str], changed: dict[str, str | None], leaf: int) -> Case:
    """Files as they were and, with some changed, added or (None) gone, as they are."""
    shards = {
        name: {"bytes": len(text), "leaves": leaves_of(text.encode("latin-1"), leaf)}
        for name, text in was.items()
    }
    now = {name: text for name, text in {**was, **changed}.items() if text is not None}
    return Case(was=was, now=now, manifest={"leaf": leaf, "shards": shards})


def flipped(text: str, places: list[int]) -> str:
    return "".join(chr(ord(c) ^ 1) if i in places else c for i, c in enumerate(text))


def hidden_verify(rng: random.Random) -> list[Case]:
    cases, leaf = [], rng.randint(3, 5)
    for damage in range(7):
        names = [f"{kind}-{i:05d}.bin" for i in rng.sample(range(99), 2) for kind in ("val", "train")]
        was = {name: some_bytes(rng, rng.randint(5 * leaf + 1, 6 * leaf - 1)) for name in names}
        a, b, c, _ = names
        short, long = was[b][: rng.randint(1, len(was[b]) - 1)], was[c] + some_bytes(rng, rng.randint(1, 9))
        if len(short) % leaf == 0:
            short = short[:-1]
        spots = [leaf + 1, 2 * leaf, 4 * leaf + 1]
        kinds: list[dict[str, str | None]] = [
            {},
            {a: flipped(was[a], spots)},
            {b: short},
            {c: long},
            {a: None, b: flipped(was[b], [0])},
            {"stray-00000.bin": some_bytes(rng, 5), c: flipped(was[c], [len(was[c]) - 1])},
            {a: flipped(was[a], spots), b: short, c: flipped(was[c], [len(was[c]) - 1]) + "x", "y.bin": ""},
        ]
        cases.append(verify_case(was, kinds[damage], leaf))
    cases.append(verify_case({"a.bin": "", "b.bin": some_bytes(rng, 3)}, {"a.bin": None}, leaf))
    return cases


VERIFY = Task(
    name="verify",
    lines=19,
    reference=verify,
    judge=judge_verify,
    drive=drive_verify,
    properties={
        "form": Property(
            "the damage is a list of [name, first byte, end], numbers as integers", "what is told, and how?"
        ),
        "clean": Property("an intact file is not reported", "are these bytes not the ones written?"),
        "leaf": Property(
            "every leaf whose bytes changed is reported, from its first byte to its end",
            "does an equal size mean equal bytes? Where does the last leaf end?",
        ),
        "range": Property(
            "damaged leaves side by side are one range, others stay apart",
            "is the leaf between two damaged ones damaged too?",
        ),
        "short": Property(
            "of a file cut short, all is reported that is no longer whole, up to its old size",
            "what is the hash of the bytes that are not there?",
        ),
        "long": Property(
            "bytes behind the old end are reported, and what came before is judged without them",
            "how many bytes did the last leaf have?",
        ),
        "missing": Property(
            "a file that is gone is reported as a whole, also an empty one", "who notices that it is gone?"
        ),
        "extra": Property(
            "a file that the manifest does not know is reported as a whole",
            "would a loader that lists the folder read it?",
        ),
        "sorted": Property("the report is sorted by name, then by byte", "can two reports be compared?"),
    },
    public=(
        verify_case({"a.bin": "abcdefgh"}, {}, 4),
        verify_case({"a.bin": "abcdefgh"}, {"a.bin": "abcdeFgh"}, 4),
        verify_case({"a.bin": "abcdefghij"}, {"a.bin": "abcdefghiJ"}, 4),
        verify_case({"a.bin": "abcdefghij"}, {"a.bin": "Abcdefghij"}, 4),
        verify_case({"a.bin": "abcdefghijklmnopq"}, {"a.bin": "abcdeFgHIjklmnopQ"}, 4),
        verify_case({"a.bin": "abcdefghij"}, {"a.bin": "abcde"}, 4),
        verify_case({"a.bin": "abcdef"}, {"a.bin": "abcdefgh"}, 4),
        verify_case({"a.bin": "abcd"}, {"a.bin": None}, 4),
        verify_case({"a.bin": ""}, {"a.bin": None}, 4),
        verify_case({"a.bin": "abcd"}, {"b.bin": "efg"}, 4),
        verify_case({"b.bin": "abcd", "a.bin": "efgh"}, {"a.bin": "eFgh", "b.bin": "Abcd"}, 4),
    ),
    hidden=hidden_verify,
    hints=(
        (
            "Go through the sorted names of both sides: those that the folder holds and those that the "
            "manifest lists. Three cases: only here, only there, both."
        ),
        (
            "Leaf i holds the bytes from `i * leaf` to `min((i + 1) * leaf, bytes)`. Hash that slice of the "
            "file and compare; a file cut short gives another hash by itself."
        ),
        (
            "Collect (first, end) of the bad leaves, and (bytes, size) if the file is longer; then join a "
            "range to the one before when that ended where this begins."
        ),
    ),
)
