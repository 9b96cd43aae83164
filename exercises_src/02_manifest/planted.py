"""Wrong solutions of exercise 02, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["verify"]["looks at sizes only"]
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from .verify import merged

# -------------------------------------------------------------------------------------------- wrong: leaves


def _leaves(path, leaf):
    with open(path, "rb") as file:
        return [sha256(piece).hexdigest() for piece in iter(lambda: file.read(leaf), b"")]


def _one_hash(path, leaf):
    """Feeds one hash on and on: each digest is that of all bytes so far."""
    running, found = sha256(), []
    with open(path, "rb") as file:
        while piece := file.read(leaf):
            running.update(piece)
            found.append(running.hexdigest())
    return found


def _as_text(path, leaf):
    data = Path(path).read_text(encoding="latin-1").encode("latin-1")
    return [sha256(data[at : at + leaf]).hexdigest() for at in range(0, len(data), leaf)]


def _chained(path, leaf):
    before, found = b"", []
    with open(path, "rb") as file:
        while piece := file.read(leaf):
            before = sha256(before + piece).digest()
            found.append(before.hex())
    return found


def _full_only(path, leaf):
    with open(path, "rb") as file:
        return [
            sha256(piece).hexdigest() for piece in iter(lambda: file.read(leaf), b"") if len(piece) == leaf
        ]


def _padded(path, leaf):
    with open(path, "rb") as file:
        return [sha256(piece.ljust(leaf, b"\0")).hexdigest() for piece in iter(lambda: file.read(leaf), b"")]


def _all_at_once(path, leaf):
    data = Path(path).read_bytes()
    return [sha256(data[at : at + leaf]).hexdigest() for at in range(0, len(data), leaf)]


def _pieces_first(path, leaf):
    with open(path, "rb") as file:
        pieces = list(iter(partial(file.read, leaf), b""))
    return [sha256(piece).hexdigest() for piece in pieces]


def _one_more(path, leaf):
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        return [sha256(file.read(leaf)).hexdigest() for _ in range(size // leaf + 1)]


def _with(hasher):
    def leaves(path, leaf):
        with open(path, "rb") as file:
            return [hasher(piece).hexdigest() for piece in iter(lambda: file.read(leaf), b"")]

    return leaves


def _utf8(path, leaf):
    Path(path).read_text(encoding="utf-8")
    return _leaves(path, leaf)


WRONG_LEAVES = {
    "goes on with one hash": (_one_hash, "bytes"),
    "chains the hashes": (_chained, "bytes"),
    "hashes text": (_as_text, "bytes"),
    "hashes the numbers of the leaves": (
        lambda path, leaf: [sha256(bytes([i % 256])).hexdigest() for i, _ in enumerate(_leaves(path, leaf))],
        "bytes",
    ),
    "drops the rest": (_full_only, "count"),
    "hashes the whole file": (lambda path, leaf: [sha256(Path(path).read_bytes()).hexdigest()], "count"),
    "adds an empty leaf": (_one_more, "count"),
    "counts leaves from the end": (lambda path, leaf: _leaves(path, leaf)[::-1], "bytes"),
    "fills the last leaf up": (_padded, "last"),
    "reads the file whole": (_all_at_once, "memory"),
    "reads all leaves first": (_pieces_first, "memory"),
    "takes SHA-3": (_with(hashlib.sha3_256), "bytes"),
    "takes MD5": (_with(hashlib.md5), "form"),
    "writes capitals": (lambda path, leaf: [h.upper() for h in _leaves(path, leaf)], "form"),
    "returns raw bytes": (lambda path, leaf: [bytes.fromhex(h) for h in _leaves(path, leaf)], "form"),
    "decodes the bytes": (_utf8, ""),
}

# -------------------------------------------------------------------------------------------- wrong: digest


def _digest(
    raw=lambda leaves: b"".join(map(bytes.fromhex, leaves)),
    line=lambda name, shard: f"{name} {shard}",
    order=sorted,
    glue="\n",
    end="",
    lines=lambda lines: lines,
):
    def digest(shards):
        made = [line(name, sha256(raw(shards[name])).hexdigest()) for name in order(shards)]
        return sha256((glue.join(lines(made)) + end).encode()).hexdigest()

    return digest


def _flat(shards):
    return sha256("".join(leaf for name in sorted(shards) for leaf in shards[name]).encode()).hexdigest()


def _xor(shards):
    each = [
        int(sha256(f"{name} {leaf}".encode()).hexdigest(), 16) for name in shards for leaf in shards[name]
    ]
    total = 0
    for one in each:
        total ^= one
    return f"{total:064x}"


WRONG_DIGEST = {
    "takes shards as they are listed": (_digest(order=list), "order"),
    "sorts backwards": (_digest(order=lambda s: sorted(s, reverse=True)), "recipe"),
    "leaves the names out": (_digest(line=lambda name, shard: shard), "names"),
    "leaves the names out and sorts": (_digest(line=lambda name, shard: shard, lines=sorted), "names"),
    "sorts the leaves": (_digest(raw=lambda leaves: b"".join(map(bytes.fromhex, sorted(leaves)))), "differ"),
    "hashes the first leaf of each shard": (
        _digest(raw=lambda leaves: b"".join(map(bytes.fromhex, leaves[:1]))),
        "differ",
    ),
    "forgets where shards end": (_flat, "names"),
    "adds hashes without order": (_xor, "recipe"),
    "hashes the names only": (_digest(raw=lambda leaves: b""), "recipe"),
    "hashes the digits": (_digest(raw=lambda leaves: "".join(leaves).encode()), "recipe"),
    "ends with a line break": (_digest(end="\n"), "recipe"),
    "joins without line breaks": (_digest(glue=""), "recipe"),
    "puts the hash first": (_digest(line=lambda name, shard: f"{shard} {name}"), "recipe"),
    "skips empty shards": (lambda shards: _digest()({n: v for n, v in shards.items() if v}), "differ"),
    "puts a colon between": (_digest(line=lambda name, shard: f"{name}: {shard}"), "recipe"),
    "returns the lines": (lambda shards: "\n".join(sorted(shards)), "form"),
    "shortens it": (lambda shards: _digest()(shards)[:16], "form"),
    "needs a shard": (lambda shards: _digest()(shards) if max(shards) else None, ""),
}

# -------------------------------------------------------------------------------------------- wrong: verify


def _bad(data, name, entry, leaf):
    size = entry["bytes"]
    bounds = [(at, min(at + leaf, size)) for at in range(0, size, leaf)]
    pairs = zip(bounds, entry["leaves"], strict=True)
    return [[name, a, b] for (a, b), right in pairs if sha256(data[a:b]).hexdigest() != right]


def _grown(data, name, entry, leaf):
    return [[name, entry["bytes"], len(data)]] if len(data) > entry["bytes"] else []


def _verifier(
    bad=_bad,
    grown=_grown,
    gone=lambda name, size: [[name, 0, size]],
    stray=lambda name, size: [[name, 0, size]],
    merge=merged,
    order=sorted,
    first=False,
):
    """Verification with one part replaced."""

    def verify(folder, manifest):
        listed, report = manifest["shards"], []
        here = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        for name in order([*listed, *(name for name in here if name not in listed)]):
            if name not in here:
                report += gone(name, listed[name]["bytes"])
            elif name not in listed:
                report += stray(name, len(here[name]))
            else:
                parts = here[name], name, listed[name], manifest["leaf"]
                report += merge(bad(*parts) + grown(*parts))
            if report and first:
                break
        return report

    return verify


def _sizes(data, name, entry, leaf):
    return [[name, 0, entry["bytes"]]] if len(data) != entry["bytes"] else []


def _exact_bytes_end(data, name, entry, leaf):
    return [[n, a, a + leaf] for n, a, _ in _bad(data, name, entry, leaf)]


def _what_is_there(data, name, entry, leaf):
    """Hashes the file's own leaves and compares as many as there are."""
    found = [(at, min(at + leaf, len(data))) for at in range(0, len(data), leaf)]
    pairs = zip(found, entry["leaves"], strict=False)
    return [[name, a, b] for (a, b), right in pairs if sha256(data[a:b]).hexdigest() != right]


def _full_leaves(data, name, entry, leaf):
    """Hashes full leaves of the file, beyond the old end too."""
    pairs = enumerate(entry["leaves"])
    return [
        [name, i * leaf, min((i + 1) * leaf, entry["bytes"])]
        for i, right in pairs
        if sha256(data[i * leaf : (i + 1) * leaf]).hexdigest() != right
    ]


def _first_bad(*parts):
    return _bad(*parts)[:1]


def _hull(ranges):
    return [[ranges[0][0], ranges[0][1], ranges[-1][2]]] if ranges else []


def _whole(data, name, entry, leaf):
    return [[name, 0, entry["bytes"]]] if _bad(data, name, entry, leaf) else []


def _numbers(data, name, entry, leaf):
    return [[n, a // leaf, a // leaf + 1] for n, a, _ in _bad(data, name, entry, leaf)]


_verify = _verifier()


def _opens_all(folder, manifest):
    sizes = [len(Path(folder, name).read_bytes()) for name in manifest["shards"]]
    return _verify(folder, manifest) if sizes else []


WRONG_VERIFY = {
    "looks at sizes only": (_verifier(bad=_sizes), "leaf"),
    "says it is fine": (lambda folder, manifest: [], "leaf"),
    "reports the whole shard": (_verifier(bad=_whole), "leaf"),
    "reports the first damaged leaf only": (_verifier(bad=_first_bad), "leaf"),
    "ends the last leaf behind the end": (_verifier(bad=_exact_bytes_end), "leaf"),
    "includes the last byte": (_verifier(bad=lambda *p: [[n, a, b - 1] for n, a, b in _bad(*p)]), "leaf"),
    "counts leaves, not bytes": (_verifier(bad=_numbers), "leaf"),
    "reports every leaf apart": (_verifier(merge=list), "range"),
    "reports all between the first and the last": (_verifier(merge=_hull), "range"),
    "compares what is there": (_verifier(bad=_what_is_there), "short"),
    "ends the range where the file ends": (
        _verifier(
            bad=lambda data, n, e, leaf: [
                [n, a, min(b, max(a, len(data)))] for n, a, b in _bad(data, n, e, leaf)
            ]
        ),
        "short",
    ),
    "does not see what was added": (_verifier(grown=lambda *parts: []), "long"),
    "hashes what was added with the last leaf": (_verifier(bad=_full_leaves), "long"),
    "does not see a missing file": (_verifier(gone=lambda name, size: []), "missing"),
    "does not see a missing empty file": (
        _verifier(gone=lambda name, size: [[name, 0, size]] if size else []),
        "missing",
    ),
    "does not see a stray file": (_verifier(stray=lambda name, size: []), "extra"),
    "stops at the first damaged shard": (_verifier(first=True), "leaf"),
    "reports in the manifest's order": (_verifier(order=list), "sorted"),
    "reports intact shards too": (
        lambda folder, m: sorted(
            _verify(folder, m) + [[n, 0, 0] for n in m["shards"] if os.path.exists(os.path.join(folder, n))]
        ),
        "clean",
    ),
    "returns True or False": (lambda folder, manifest: not _verify(folder, manifest), "form"),
    "returns text": (lambda folder, m: [f"{n}: {a} to {b}" for n, a, b in _verify(folder, m)], "form"),
    "opens every listed file": (_opens_all, ""),
}

WRONG = {"leaves": WRONG_LEAVES, "digest": WRONG_DIGEST, "verify": WRONG_VERIFY}

# --------------------------------------------------------------------------------- right ones, other styles


def leaves_by_offset(path, leaf):
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        found = []
        for at in range(0, size, leaf):
            file.seek(at)
            found.append(sha256(file.read(min(leaf, size - at))).hexdigest())
    return tuple(found)


def leaves_mapped(path, leaf):
    import mmap

    if not os.path.getsize(path):
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [sha256(data[at : at + leaf]).hexdigest() for at in range(0, len(data), leaf)]


def digest_updating(shards):
    total = sha256()
    for i, (name, leaves) in enumerate(sorted(shards.items())):
        inner = sha256()
        for leaf in leaves:
            inner.update(int(leaf, 16).to_bytes(32, "big"))
        total.update(f"{chr(10) if i else ''}{name} {inner.hexdigest()}".encode())
    return total.hexdigest()


def digest_one_line(shards):
    each = {n: sha256(bytes.fromhex("".join(v))).hexdigest() for n, v in shards.items()}
    return sha256("\n".join(f"{n} {h}" for n, h in sorted(each.items())).encode()).hexdigest()


def verify_byte_wise(folder, manifest):
    """Marks every damaged byte, then reads off the runs."""
    report, leaf = [], manifest["leaf"]
    for name in sorted({*os.listdir(folder), *manifest["shards"]}):
        entry, path = manifest["shards"].get(name), Path(folder) / name
        if entry is None or not path.exists():
            report.append((name, 0, path.stat().st_size if entry is None else entry["bytes"]))
            continue
        data, size = path.read_bytes(), entry["bytes"]
        marks = [b >= size or _leaf_bad(data, b // leaf, leaf, entry) for b in range(max(size, len(data)))]
        for bad, run in groupby(range(len(marks)), key=marks.__getitem__):
            places = list(run)
            if bad:
                report.append((name, places[0], places[-1] + 1))
    return report


def _leaf_bad(data, i, leaf, entry):
    piece = data[i * leaf : min((i + 1) * leaf, entry["bytes"])]
    return sha256(piece).hexdigest() != entry["leaves"][i]


def verify_streaming(folder, manifest):
    report = []
    for name, entry in manifest["shards"].items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            report.append([name, 0, entry["bytes"]])
            continue
        ranges, at = [], 0
        with open(path, "rb") as file:
            for right in entry["leaves"]:
                end = min(at + manifest["leaf"], entry["bytes"])
                if sha256(file.read(end - at)).hexdigest() != right:
                    ranges.append([name, at, end])
                at = end
        report += merged(ranges + [[name, at, os.path.getsize(path)]] * (os.path.getsize(path) > at))
    strays = [name for name in os.listdir(folder) if name not in manifest["shards"]]
    return sorted(report + [[name, 0, os.path.getsize(os.path.join(folder, name))] for name in strays])


RIGHT = {
    "leaves": [leaves_by_offset, leaves_mapped, _leaves],
    "digest": [digest_updating, digest_one_line, _digest()],
    "verify": [verify_byte_wise, verify_streaming, _verify],
}
