"""Tasks 1 and 2 of the manifest: the hashes of a shard's leaves, and one digest for the whole data set."""

from __future__ import annotations

import random
import re
from hashlib import sha256
from itertools import combinations
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

HEX = re.compile("[0-9a-f]{64}")


def hashes(value: Any) -> bool:
    """A list of SHA-256 in lower-case hexadecimal."""
    return isinstance(value, list) and all(type(v) is str and HEX.fullmatch(v) for v in value)


# ------------------------------------------------------------------------------------------------- 1. leaves


def leaves_of(data: bytes, leaf: int) -> list[str]:
    return [sha256(data[at : at + leaf]).hexdigest() for at in range(0, len(data), leaf)]


def drive_leaves(function, content, times, leaf):
    """`content`, `times` times, in a file; and whether the call held more than a few leaves of it at once."""
    import os
    import tempfile
    import tracemalloc

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train-00000.bin")
        with open(path, "wb") as file:
            file.write(content.encode("latin-1") * times)
        tracemalloc.start()
        try:
            found = function(path, leaf)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    if found is None:
        return None
    return {"held at most four leaves": leaf < 2**18 or peak <= 4 * leaf, "leaves": found}


def leaves(content: str, times: int, leaf: int) -> Answer:
    found = leaves_of(content.encode("latin-1") * times, leaf)
    return Answer(value={"held at most four leaves": True, "leaves": found})


def judge_leaves(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = (isinstance(got.value, dict) and got.value.get("leaves")), want.value["leaves"]
    if not hashes(found):
        return "form"
    if len(found) != len(right):
        return "count"
    if found != right:
        rest = len(inputs["content"]) * inputs["times"] % inputs["leaf"]
        return "last" if rest and found[:-1] == right[:-1] else "bytes"
    return "" if got.value["held at most four leaves"] is True else "memory"


def some_bytes(rng: random.Random, size: int) -> str:
    return "".join(chr(rng.choice([0, 10, 13, 65, 66, 255, rng.randrange(256)])) for _ in range(size))


def hidden_leaves(rng: random.Random) -> list[Case]:
    cases = [Case(content=some_bytes(rng, size), times=1, leaf=8) for size in (0, 1, 7, 8, 9, 16, 30)]
    cases.append(Case(content=some_bytes(rng, rng.randint(20, 60)), times=3, leaf=rng.randint(5, 11)))
    cases.append(Case(content=some_bytes(rng, 64), times=2**15 + rng.randint(1, 999), leaf=2**18))
    return cases


LEAVES = Task(
    name="leaves",
    lines=5,
    reference=leaves,
    judge=judge_leaves,
    drive=drive_leaves,
    properties={
        "form": Property(
            "the leaves are a list of SHA-256, each 64 hexadecimal digits", "what will the manifest hold?"
        ),
        "count": Property(
            "a shard of n bytes has ceil(n / leaf) leaves, an empty one has none",
            "when does your loop end, and what does it do with the rest?",
        ),
        "bytes": Property(
            "each hash is that of its own leaf's bytes, as they are on disk",
            "is the file opened as text, and what has the hash been fed before?",
        ),
        "last": Property("the last leaf is as long as what is left", "what did you hash behind the end?"),
        "memory": Property(
            "the file is read leaf by leaf", "how large is a shard, and how much memory has a data worker?"
        ),
    },
    public=(
        Case(content="", times=1, leaf=4),
        Case(content="abcd", times=1, leaf=4),
        Case(content="abcdefgh", times=1, leaf=4),
        Case(content="abcdefgh\r\nij\xffk", times=1, leaf=4),
        Case(content="shard!!!", times=2**18, leaf=2**18),
    ),
    hidden=hidden_leaves,
    hints=(
        "Open the file for reading bytes and read `leaf` bytes at a time until nothing comes.",
        "`while piece := file.read(leaf):` does it. Each leaf has a hash object of its own.",
        "`hashlib.sha256(piece).hexdigest()` for each piece, appended to a list.",
    ),
)

# ------------------------------------------------------------------------------------------------- 2. digest


def digest_of(shards: dict[str, list[str]]) -> str:
    lines = []
    for name in sorted(shards):
        raw = b"".join(bytes.fromhex(leaf) for leaf in shards[name])
        lines.append(f"{name} {sha256(raw).hexdigest()}")
    return sha256("\n".join(lines).encode()).hexdigest()


def drive_digest(function, versions):
    found = [function({name: list(leaves) for name, leaves in shards.items()}) for shards in versions]
    return None if all(one is None for one in found) else found


def digest(versions: list[dict[str, list[str]]]) -> Answer:
    return Answer(value=[digest_of(shards) for shards in versions])


def judge_digest(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not hashes(found):
        return "form"
    for i, j in combinations(range(len(right)), 2):
        if right[i] == right[j] and found[i] != found[j]:
            return "order"
    for i, j in combinations(range(len(right)), 2):
        if right[i] != right[j] and found[i] == found[j]:
            first, second = (sorted(inputs["versions"][k].values()) for k in (i, j))
            return "names" if first == second else "differ"
    return "" if found == right else "recipe"


def leaf_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def versions_of(shards: dict[str, list[str]], rng: random.Random) -> list[dict[str, list[str]]]:
    """The data set listed twice, and its neighbours: names swapped, a leaf moved, turned round or changed."""
    names = list(shards)
    first, second = names[0], names[1]
    back = dict(reversed(shards.items()))
    swapped = {**shards, first: shards[second], second: shards[first]}
    renamed = {("z" + name if name == first else name): leaves for name, leaves in shards.items()}
    moved = {**shards, first: shards[first][:-1], second: [shards[first][-1], *shards[second]]}
    turned = {**shards, first: shards[first][::-1]}
    changed = {**shards, second: [*shards[second][:-1], leaf_of(str(rng.random()))]}
    return [shards, back, swapped, renamed, moved, turned, changed]


def hidden_digest(rng: random.Random) -> list[Case]:
    cases = []
    for count in (2, 3, 4, 12):
        names = [f"{rng.choice(['train', 'val'])}-{i:05d}.bin" for i in rng.sample(range(90_000), count)]
        shards = {name: [leaf_of(str(rng.random())) for _ in range(rng.randint(2, 3))] for name in names}
        cases.append(Case(versions=versions_of(shards, rng)))
    return [*cases, Case(versions=[{}, {"train-00000.bin": []}, {"val-00000.bin": []}])]


A, B, C = (leaf_of(text) for text in "abc")
DIGEST = Task(
    name="digest",
    lines=6,
    reference=digest,
    judge=judge_digest,
    drive=drive_digest,
    properties={
        "form": Property("a digest is 64 hexadecimal digits", "what will a run record?"),
        "order": Property(
            "the order in which the shards are listed does not matter",
            "does every machine list a folder in the same order?",
        ),
        "names": Property(
            "two shards that change names change the digest", "which shard is read first, and who decides it?"
        ),
        "differ": Property(
            "a changed, moved or reordered leaf changes the digest",
            "do you see a difference between two shards [a, b], [c] and two shards [a], [b, c]?",
        ),
        "recipe": Property(
            "the digest is made by the recipe, byte for byte",
            "raw bytes or hexadecimal digits, and what lies between two lines?",
        ),
    },
    public=(
        Case(versions=[{}]),
        Case(versions=[{"a.bin": [A], "b.bin": [B]}, {"c.bin": [A], "d.bin": [B]}]),
        Case(versions=[{"a.bin": [A], "b.bin": [B]}, {"a.bin": [B], "b.bin": [A]}]),
        Case(versions=[{"a.bin": [A], "b.bin": [B]}, {"b.bin": [B], "a.bin": [A]}]),
        Case(versions=[{"a.bin": [A, B]}, {"a.bin": [A, C]}, {"a.bin": [B, A]}]),
        Case(versions=[{"a.bin": [A, B], "b.bin": [C]}, {"a.bin": [A], "b.bin": [B, C]}]),
        Case(versions=[{}, {"a.bin": []}]),
    ),
    hidden=hidden_digest,
    hints=(
        "First one hash per shard, from its leaves; then one hash over all lines.",
        "`bytes.fromhex(leaf)` gives the 32 raw bytes. The lines go through `sorted` and `'\\n'.join`.",
        "A line is `f'{name} {sha256(b''.join(raw leaves)).hexdigest()}'`; the last line has no line break.",
    ),
)
