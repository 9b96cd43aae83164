"""Exercise 12, checkpoints: saved atomically, read only when whole, rotated without losing the last good one.

The kernel works on real files in a fresh folder. A crash is emulated: the driver lets `os.fsync`,
`os.replace` or `os.rename` raise in place of the system call, and looks at what is on disk then. No fsync is
really made: what it would have saved is counted.
"""

from __future__ import annotations

import hashlib
import random
import re
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task


def framed(data: str) -> str:
    """The text of a whole checkpoint file."""
    return hashlib.sha256(data.encode()).hexdigest() + "\n" + data


def name_of(step: int) -> str:
    return f"step_{step:06d}.ckpt"


# ------------------------------------------------------------------------------------------------- 1. save


def drive_save(function, files, step, data, crash):
    """Save into a folder that holds `files`; the `crash`-th system call of the kinds above is the last."""
    import os
    import re
    import tempfile
    from pathlib import Path

    class Crash(BaseException):
        pass

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        for name, text in files:
            (folder / name).write_bytes(text.encode())
        real = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}
        seen = {"calls": 0, "sizes": {}, "moved": None, "beside": False, "folder": False}

        def count():
            seen["calls"] += 1
            if crash and seen["calls"] >= crash:
                raise Crash

        def fsync(fd):
            count()
            number = fd if isinstance(fd, int) else fd.fileno()
            about = os.fstat(number)
            seen["sizes"][about.st_ino] = about.st_size
            if about.st_ino == os.stat(folder).st_ino and seen["moved"]:
                seen["folder"] = True

        def move(name):
            def moved(source, target, **more):
                count()
                inode = os.stat(source).st_ino
                real[name](source, target, **more)
                seen["moved"] = [inode, seen["sizes"].get(inode)]
                seen["beside"] = Path(source).resolve().parent == folder

            return moved

        crashed = False
        os.fsync, os.replace, os.rename = fsync, move("replace"), move("rename")
        try:
            function(folder, step, data.encode())
        except Crash:
            crashed = True
        finally:
            os.fsync, os.replace, os.rename = real["fsync"], real["replace"], real["rename"]
        left = {path.name: path for path in folder.iterdir() if path.is_file()}
        kept = {
            name: path.read_bytes().decode(errors="replace")
            for name, path in sorted(left.items())
            if re.fullmatch(r"step_\d{6,}\.ckpt", name)
        }
        inode, synced = seen["moved"] or [None, None]
        sizes = {path.stat().st_ino: path.stat().st_size for path in left.values()}
    if not crashed and kept == dict(files) and len(left) == len(files):
        return None
    return {
        "files": kept,
        "others": len(left) - len(kept),
        "crashed": crashed,
        "renamed": inode is not None and inode in sizes,
        "beside": seen["beside"],
        "synced": synced is not None and synced == sizes.get(inode),
        "folder synced": seen["folder"],
    }


def save(files: list, step: int, data: str, crash: int) -> Answer:
    """Three calls: fsync of the file, rename, fsync of the folder."""
    done = not crash or crash > 2
    kept = dict(files) | ({name_of(step): framed(data)} if done else {})
    return Answer(
        value={
            "files": dict(sorted(kept.items())),
            "others": 0 if done else 1,
            "crashed": 0 < crash <= 3,
            "renamed": done,
            "beside": done,
            "synced": done,
            "folder synced": not crash or crash > 3,
        }
    )


def judge_save(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, dict):
        return "name"
    before, name, text = dict(inputs["files"]), name_of(inputs["step"]), framed(inputs["data"])
    if found["crashed"]:
        for one, old in before.items():
            if found["files"].get(one) not in ((old, text) if one == name else (old,)):
                return "torn"
        new = set(found["files"]) <= {*before, name} and found["files"].get(name, text)
        return "" if new in (text, before.get(name)) else "torn"
    if name not in found["files"]:
        return "name"
    if found["files"][name] != text:
        return "format"
    if found["files"] != before | {name: text}:
        return "torn"
    for key, fact in (
        ("rename", "renamed"),
        ("rename", "beside"),
        ("sync", "synced"),
        ("folder", "folder synced"),
    ):
        if not found[fact]:
            return key
    return "left" if found["others"] else ""


TEXTS = ("weights", "", "two\nlines\n", "\n", "a ü b", "0" * 300)


def text_of(rng: random.Random) -> str:
    return rng.choice(TEXTS) + "".join(rng.choice("abc\n 0123") for _ in range(rng.randint(1, 60)))


def hidden_save(rng: random.Random) -> list[Case]:
    cases = []
    for crash in (0, 0, 1, 2, 3, 4):
        steps = [rng.randint(1, 9999), rng.randint(10_000, 99_999), rng.randint(10**6, 10**7)]
        files = [[name_of(step), framed(text_of(rng))] for step in steps[:2]]
        cases.append(Case(files=files, step=rng.choice(steps[1:]), data=text_of(rng), crash=crash))
        cases.append(Case(files=files, step=steps[0], data=text_of(rng) * 40 + "\n", crash=crash))
    return cases


OLD = [[name_of(7), framed("old")]]

SAVE = Task(
    name="save",
    lines=12,
    reference=save,
    judge=judge_save,
    drive=drive_save,
    properties={
        "name": Property(
            "the checkpoint of step 7 is the file step_000007.ckpt", "under which name will the loader look?"
        ),
        "format": Property(
            "the file is the SHA-256 of the data in hex, a newline, the data",
            "is every byte of the data in the file, unchanged?",
        ),
        "torn": Property(
            "a crash at any point leaves the old checkpoints as they were, and the new one whole or absent",
            "what is on disk if the process ends before this line?",
        ),
        "rename": Property(
            "the file is written under a temporary name in the same folder, then renamed",
            "which name does a half-written file have?",
        ),
        "sync": Property(
            "all bytes are on disk before the rename: flush, then fsync",
            "what does rename promise about the bytes of the file?",
        ),
        "folder": Property(
            "after the rename the folder is synced", "where does a file system keep the name of a file?"
        ),
        "left": Property(
            "no temporary file is left after a save", "what fills the disk after a thousand saves?"
        ),
    },
    public=(
        Case(files=[], step=7, data="new", crash=0),
        Case(files=[], step=1234567, data="two\nlines\n", crash=0),
        Case(files=OLD, step=7, data="new", crash=0),
        Case(files=OLD, step=7, data="new", crash=1),
        Case(files=OLD, step=7, data="new", crash=2),
        Case(files=OLD, step=8, data="new", crash=1),
        Case(files=OLD, step=8, data="new", crash=2),
        Case(files=OLD, step=8, data="new", crash=3),
    ),
    hidden=hidden_save,
    hints=(
        "Five acts: write under a temporary name, flush, fsync, rename, fsync the folder.",
        (
            "`os.fsync(file.fileno())` inside the `with`, after `file.flush()`; `os.replace(temporary, "
            "final)` after it."
        ),
        (
            "A folder is synced through a descriptor: `fd = os.open(folder, os.O_RDONLY)`, "
            "`os.fsync(fd)`, `os.close(fd)`."
        ),
    ),
)

# ------------------------------------------------------------------------------- 2. what is whole; 3. rotate


def drive_whole(function, files):
    """Files as given, the first the one that was touched last; the answer with its data as text."""
    import os
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        for age, (name, text) in enumerate(files):
            path = Path(place) / name
            path.write_bytes(text.encode())
            os.utime(path, (1e9 - age, 1e9 - age))
        found = function(Path(place))
    if not isinstance(found, (list, tuple)) or not all(
        isinstance(one, (list, tuple)) and len(one) == 2 for one in found
    ):
        return found
    return [
        [step, data.decode(errors="replace") if isinstance(data, bytes) else None] for step, data in found
    ]


def read(files: list) -> list[list]:
    found = []
    for name, text in files:
        match = re.fullmatch(r"step_(\d{6,})\.ckpt", name)
        digest, newline, data = text.partition("\n")
        if match and newline and framed(data) == text and digest:
            found.append([int(match[1]), data])
    return sorted(found, reverse=True)


def whole_checkpoints(files: list) -> Answer:
    return Answer(value=read(files))


def judge_whole(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found = got.value
    if not isinstance(found, list) or not all(
        isinstance(one, list) and len(one) == 2 and type(one[0]) is int and isinstance(one[1], str)
        for one in found
    ):
        return "form"
    steps, right = [one[0] for one in found], [one[0] for one in want.value]
    names = {name for name, _ in inputs["files"]}
    if any(name_of(step) not in names for step in steps) or len(set(steps)) < len(steps):
        return "others"
    if set(steps) - set(right):
        return "whole"
    if set(right) - set(steps):
        return "all"
    if steps != right:
        return "order"
    return "" if found == want.value else "data"


def drive_rotate(function, files, keep):
    """The names left, or the error's."""
    import os
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        for age, (name, text) in enumerate(files):
            path = Path(place) / name
            path.write_bytes(text.encode())
            os.utime(path, (1e9 - age, 1e9 - age))
        try:
            function(Path(place), keep)
        except ValueError:
            return "ValueError" if len(os.listdir(place)) == len(files) else "ValueError, too late"
        left = sorted(os.listdir(place))
    return None if len(left) == len(files) else left


def rotate(files: list, keep: int) -> Answer:
    if keep < 1:
        return Answer(value="ValueError")
    gone = {name_of(step) for step, _ in read(files)[keep:]}
    return Answer(value=sorted(name for name, _ in files if name not in gone))


def judge_rotate(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    names = sorted(name for name, _ in inputs["files"])
    left = names if got.value is None else got.value
    if left == want.value:
        return ""
    if want.value == "ValueError" or not isinstance(left, list):
        return "refuse"
    good = {name_of(step) for step, _ in read(inputs["files"])}
    lost = set(want.value) - set(left)
    if lost & good:
        return "good"
    return "others" if lost else "old"


def damaged(text: str, kind: int) -> str:
    """A whole file, torn or rotted: shorter, longer, one letter changed, empty, header alone, half a hash."""
    kinds = (
        text[:-1],
        text + "x",
        text[:-1] + ("x" if text[-1] != "x" else "y"),
        "",
        text[:64],
        text[:20] + text[64:],
        text[:66],
    )
    return kinds[kind % len(kinds)]


def folder_of(rng: random.Random, whole: int, bad: int) -> list:
    steps = rng.sample(
        [*range(1, 200), *range(999_990, 1_000_020), *range(10_000_000, 10_000_050)], whole + bad
    )
    files = [[name_of(step), framed(text_of(rng))] for step in steps[:whole]]
    kinds = rng.sample(range(7), bad)
    files += [
        [name_of(step), damaged(framed(text_of(rng) + "ab"), kind)]
        for step, kind in zip(steps[whole:], kinds, strict=True)
    ]
    others = [
        "step_000300.ckpt.tmp",
        "tmp_step_000301.ckpt",
        "step_302.ckpt",
        "step_000303.ckpt~",
        "step_last1.ckpt",
        "notes.txt",
    ]
    files += [[name, framed(text_of(rng))] for name in rng.sample(others, 3)]
    rng.shuffle(files)
    return files


def hidden_whole(rng: random.Random) -> list[Case]:
    sizes = ((1, 0), (2, 3), (3, 7), (4, 2), (0, 3), (6, 5))
    texts = rng.sample(["", "\n", "a\n\n", text_of(rng) + "\r\nb\x0cc\n"], 4)
    steps = rng.sample([rng.randint(1, 999_999), 999_999, 1_000_000, 9_999_999, 10_000_000], 5)
    lines = [[name_of(step), framed(text)] for step, text in zip(steps[:4], texts, strict=True)]
    wide = [[name_of(step), framed(text_of(rng))] for step in steps]
    return [Case(files=lines), Case(files=wide), *(Case(files=folder_of(rng, *size)) for size in sizes)]


def hidden_rotate(rng: random.Random) -> list[Case]:
    sizes = ((5, 0, 2), (4, 3, 1), (3, 5, 2), (2, 4, 3), (6, 7, 3), (0, 3, 1), (1, 6, 1))
    cases = [Case(files=folder_of(rng, whole, bad), keep=keep) for whole, bad, keep in sizes]
    for whole in (3, 4):  # the newest ones are damaged
        files = [[name_of(step), framed(text_of(rng))] for step in range(1, whole + 1)]
        files += [
            [name_of(step), damaged(framed("weights"), rng.randrange(7))]
            for step in (rng.randint(10, 20), 30)
        ]
        rng.shuffle(files)
        cases.append(Case(files=files, keep=rng.randint(1, 2)))
    wide = [[name_of(step), framed(text_of(rng))] for step in (*rng.sample(range(10**6), 2), 10**6, 10**7)]
    cases.append(Case(files=wide, keep=rng.randint(1, 2)))
    return [*cases, Case(files=folder_of(rng, 2, 1), keep=rng.randint(-2, 0))]


A, B, C = ([name_of(step), framed(data)] for step, data in ((1, "first"), (2, ""), (3, "a\nb\n")))
TORN = [name_of(4), framed("torn")[:-1]]
WIDE = [[name_of(step), framed("x")] for step in (999_999, 1_000_000)]
TEMPORARY = ["step_000005.ckpt.tmp", framed("temporary")]
EMPTY, HALF = [name_of(6), ""], [name_of(7), framed("half")[:20] + "\nhalf"]

WHOLE = Task(
    name="whole_checkpoints",
    lines=9,
    reference=whole_checkpoints,
    judge=judge_whole,
    drive=drive_whole,
    properties={
        "form": Property(
            "the answer is a list of pairs (step as int, data as bytes)", "what does the loader need?"
        ),
        "others": Property(
            "only names like step_000007.ckpt count, with six digits or more",
            "which files in the folder are no checkpoints?",
        ),
        "whole": Property(
            "only files whose hash is that of their data are in the list",
            "which files would you not want to resume from?",
        ),
        "all": Property(
            "every whole checkpoint is in the list, whatever lies beside it",
            "what happens after the first damaged file?",
        ),
        "order": Property(
            "the newest is first, by the number of its step",
            "is step 1000000 after 999999, also as text? Does a copy change dates?",
        ),
        "data": Property("the data come back byte for byte", "what if the data contain newlines?"),
    },
    public=(
        Case(files=[]),
        Case(files=[A]),
        Case(files=[A, B]),
        Case(files=[C]),
        Case(files=[A, TORN]),
        Case(files=[TORN, A]),
        Case(files=[A, EMPTY]),
        Case(files=[A, HALF]),
        Case(files=[A, TEMPORARY]),
        Case(files=WIDE),
        Case(files=[A, ["step_9.ckpt", framed("short")], ["notes.txt", "x"]]),
        Case(files=[C, TORN, A, HALF, B]),
    ),
    hidden=hidden_whole,
    hints=(
        "For each file of the right name: split off the first line, hash the rest, compare. Sort at the end.",
        (
            r'`re.fullmatch(r"step_(\d{6,})\.ckpt", path.name)` gives the number; '
            r'`digest, _, data = raw.partition(b"\n")`.'
        ),
        "Keep it if `hashlib.sha256(data).hexdigest().encode() == digest`; sort by the int, in reverse.",
    ),
)

ROTATE = Task(
    name="rotate",
    lines=4,
    reference=rotate,
    judge=judge_rotate,
    drive=drive_rotate,
    properties={
        "refuse": Property(
            "`keep` below 1 raises ValueError before anything is deleted", "what would be left of the run?"
        ),
        "good": Property(
            "the newest `keep` whole checkpoints stay",
            "what counts as a checkpoint: a name, or a file that can be loaded?",
        ),
        "old": Property("older whole checkpoints go", "what is in the slice after `keep`?"),
        "others": Property(
            "damaged files, and files that are no checkpoints, stay", "who may still want to look at them?"
        ),
    },
    public=(
        Case(files=[A, B], keep=1),
        Case(files=[A, B, C], keep=2),
        Case(files=[A], keep=1),
        Case(files=[A, B], keep=0),
        Case(files=[A, TORN], keep=1),
        Case(files=[A, B, TORN, HALF], keep=1),
        Case(files=[A, B, C, TEMPORARY], keep=2),
        Case(files=[*WIDE, B], keep=1),
        Case(files=[["step_000000.ckpt", "torn"], A, B, C], keep=1),
    ),
    hidden=hidden_rotate,
    hints=(
        "Ask `whole_checkpoints` for the list. What stands behind the first `keep` goes, and nothing else.",
        "`for step, _ in whole_checkpoints(folder)[keep:]` walks over what goes.",
        '`(folder / f"step_{step:06d}.ckpt").unlink()`, after the check of `keep`.',
    ),
)

EXERCISE = Exercise(
    name="12_checkpoint",
    version=1,
    title="Checkpoints that survive",
    minutes=40,
    round="coding",
    difficulty=3,
    rows=("S7",),
    tasks=(SAVE, WHOLE, ROTATE),
    predictions={
        "minutes lost": Prediction(
            answer=90.0,
            because=(
                "the crash comes on average 30 minutes after the newest save, and the one before it is 60 "
                "minutes older. Without a fallback the whole run would be lost."
            ),
        )
    },
    hides=("train", "rescue"),
)
