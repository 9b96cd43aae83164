"""Wrong solutions of exercise 12, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["save"]["no fsync"]
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

# ----------------------------------------------------------------------------------------------- wrong: save


def _framed(data):
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _sync_folder(folder):
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _sync(file):
    file.flush()
    os.fsync(file.fileno())


def _save(
    frame=_framed,
    name=lambda step: f"step_{step:06d}.ckpt",
    temporary=lambda path: path.with_name(path.name + ".tmp"),
    sync=_sync,
    before=lambda path: None,
    move=lambda source, target: os.replace(source, target),
    after=_sync_folder,
    late_sync=lambda path: None,
):
    """The right save, one part replaced."""

    def save(folder, step, data):
        final = Path(folder) / name(step)
        path = temporary(final)
        with open(path, "wb") as file:
            file.write(frame(data))
            sync(file)
        before(final)
        if path != final:
            move(path, final)
        late_sync(final)
        after(folder)

    return save


def _nothing(*_):
    pass


def _elsewhere(path):
    return Path(tempfile.gettempdir()) / f"llmkit_{os.getpid()}_{path.name}"


def _copy(source, target):
    Path(target).write_bytes(Path(source).read_bytes())


def _copy_and_leave(source, target):
    os.replace(source, target)
    Path(source).write_bytes(b"")


def _late(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _clears(path):
    for other in path.parent.glob("step_*.ckpt"):
        other.unlink()


def _folder_first(folder, step, data):
    _sync_folder(folder)
    _save(after=_nothing)(folder, step, data)


def _backs_up(path):
    if path.exists():
        os.replace(path, path.with_name("backup"))


WRONG_SAVE = {
    "writes the final file": (_save(temporary=lambda path: path), "rename"),
    "copies in place of a rename": (_save(move=_copy), "rename"),
    "a temporary file elsewhere": (_save(temporary=_elsewhere), "rename"),
    "no fsync": (_save(sync=_nothing), "sync"),
    "flush alone": (_save(sync=lambda file: file.flush()), "sync"),
    "fsync without flush": (_save(sync=lambda file: os.fsync(file.fileno())), "sync"),
    "fsync after the rename": (_save(sync=_nothing, late_sync=_late), "sync"),
    "does not sync the folder": (_save(after=_nothing), "folder"),
    "syncs the folder before": (_folder_first, "folder"),
    "removes the old one first": (_save(before=lambda path: path.unlink(missing_ok=True)), "torn"),
    "moves the old one away first": (_save(before=_backs_up), "left"),
    "removes all others": (_save(before=_clears), "torn"),
    "leaves a temporary file": (_save(move=_copy_and_leave), "left"),
    "the data alone": (_save(frame=lambda data: data), "format"),
    "no newline": (_save(frame=lambda data: _framed(data).replace(b"\n", b"", 1)), "format"),
    "md5": (_save(frame=lambda data: hashlib.md5(data).hexdigest().encode() + b"\n" + data), "format"),
    "strips the data": (_save(frame=lambda data: _framed(data.strip())), "format"),
    "five digits": (_save(name=lambda step: f"step_{step:05d}.ckpt"), "name"),
    "one name for all": (_save(name=lambda step: "latest.ckpt"), "name"),
    "writes text": (_save(frame=lambda data: _framed(data).decode()), ""),
}

# -------------------------------------------------------------------------------------- wrong: what is whole

NAME = r"step_(\d{6,})\.ckpt"


def _good(digest, data):
    return hashlib.sha256(data).hexdigest().encode() == digest


def _whole(
    number=lambda path: (match := re.fullmatch(NAME, path.name)) and int(match[1]),
    split=lambda raw: raw.partition(b"\n")[::2],
    good=_good,
    order=lambda found: sorted(found, key=lambda one: one[0], reverse=True),
    paths=lambda folder: sorted(folder.iterdir()),
    stop=lambda: False,
    pair=lambda step, data: (step, data),
):
    def whole_checkpoints(folder):
        found = []
        for path in paths(folder):
            step = number(path)
            if step is None:
                continue
            digest, data = split(path.read_bytes())
            if good(digest, data):
                found.append(pair(step, data))
            elif stop():
                break
        return order(found)

    return whole_checkpoints


def _search(path):
    match = re.search(r"step_(\d+)\.ckpt", path.name)
    return int(match[1]) if match else None


def _exactly_six(path):
    match = re.fullmatch(r"step_(\d{6})\.ckpt", path.name)
    return int(match[1]) if match else None


def _lines(raw):
    first, *rest = raw.splitlines() or [b""]
    return first, b"\n".join(rest)


def _by_date(folder):
    return sorted(folder.iterdir(), key=os.path.getmtime, reverse=True)


def _second_line(raw):
    return [*raw.split(b"\n"), b""][:2]


_text = lambda found: sorted(found, key=lambda one: f"{one[0]:06d}", reverse=True)  # noqa: E731

WRONG_WHOLE = {
    "trusts the name": (_whole(good=lambda digest, data: True), "whole"),
    "trusts what is not empty": (_whole(good=lambda digest, data: bool(digest)), "whole"),
    "half a hash is enough": (
        _whole(good=lambda d, data: len(d) > 9 and hashlib.sha256(data).hexdigest().encode().startswith(d)),
        "whole",
    ),
    "a hash of the right length": (_whole(good=lambda digest, data: len(digest) == 64), "whole"),
    "stops at a damaged one": (
        _whole(paths=lambda f: sorted(f.iterdir(), reverse=True), stop=lambda: True),
        "all",
    ),
    "the newest alone": (_whole(order=lambda found: sorted(found, reverse=True)[:1]), "all"),
    "leaves out empty data": (_whole(good=lambda digest, data: data and _good(digest, data)), "all"),
    "six digits alone": (_whole(number=_exactly_six), "all"),
    "the second line for the data": (_whole(split=_second_line), "all"),
    "splits lines": (_whole(split=_lines), "all"),
    "sorts as text": (_whole(order=_text), "order"),
    "by the dates of the files": (_whole(paths=_by_date, order=lambda found: found), "order"),
    "the oldest first": (_whole(order=sorted), "order"),
    "takes temporary files": (_whole(number=_search), "others"),
    "without the last newline": (_whole(pair=lambda step, data: (step, data.rstrip(b"\n"))), "data"),
    "with the hash": (_whole(pair=lambda step, data: (step, _framed(data))), "data"),
    "text for data": (_whole(pair=lambda step, data: (step, data.decode())), "form"),
    "the step as text": (_whole(pair=lambda step, data: (str(step), data)), "form"),
    "None when there is none": (lambda folder: _whole()(folder) or None, "form"),
    "needs a newline": (_whole(split=lambda raw: raw.split(b"\n", 1)), ""),
}

# --------------------------------------------------------------------------------------------- wrong: rotate


def _path(folder, step):
    return folder / f"step_{step:06d}.ckpt"


_all_whole = _whole()


def _rotate(
    refuse=True, gone=lambda found, keep: found[keep:], also=lambda folder: (), found=_all_whole, late=False
):
    def rotate(folder, keep):
        if keep < 1 and refuse and not late:
            raise ValueError(keep)
        for step, _ in gone(found(folder), keep):
            _path(folder, step).unlink()
        for path in also(folder):
            path.unlink()
        if keep < 1 and refuse:
            raise ValueError(keep)

    return rotate


def _damaged(folder):
    good = {_path(folder, step) for step, _ in _whole()(folder)}
    return [path for path in folder.iterdir() if re.fullmatch(NAME, path.name) and path not in good]


def _temporary(folder):
    return list(folder.glob("*.tmp"))


_by_name = _whole(good=lambda digest, data: True)

WRONG_ROTATE = {
    "counts damaged ones": (_rotate(found=_by_name), "good"),
    "counts damaged ones, deletes whole ones": (
        lambda folder, keep: _rotate(
            found=lambda f: [one for one in _by_name(f)[keep:] if one in _whole()(f)], gone=lambda x, k: x
        )(folder, keep),
        "good",
    ),
    "keeps the oldest": (_rotate(gone=lambda found, keep: found[:-keep]), "good"),
    "one too few": (_rotate(gone=lambda found, keep: found[keep - 1 :]), "good"),
    "one too many": (_rotate(gone=lambda found, keep: found[keep + 1 :]), "old"),
    "one at a time": (_rotate(gone=lambda found, keep: found[keep:][-1:]), "old"),
    "deletes nothing": (_rotate(gone=lambda found, keep: []), "old"),
    "sorts as text": (_rotate(found=_whole(order=_text)), "good"),
    "by dates": (_rotate(found=_whole(paths=_by_date, order=lambda found: found)), "good"),
    "takes keep 0": (_rotate(refuse=False), "refuse"),
    "refuses too late": (_rotate(late=True), "refuse"),
    "clears damaged ones": (_rotate(also=_damaged), "others"),
    "clears temporary files": (_rotate(also=_temporary), "others"),
    "deletes all": (_rotate(gone=lambda found, keep: found), "good"),
}
WRONG = {"save": WRONG_SAVE, "whole_checkpoints": WRONG_WHOLE, "rotate": WRONG_ROTATE}

# ----------------------------------------------------------------------------------- right, in other styles


def save_low(folder, step, data):
    final = os.path.join(folder, f"step_{step:06d}.ckpt")
    fd = os.open(f"{final}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        rest = memoryview(_framed(data))
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{final}.part", final)
    _sync_folder(folder)


def save_named(folder, step, data):
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(hashlib.sha256(data).hexdigest().encode())
        file.write(b"\n")
        file.write(data)
        _sync(file)
    Path(file.name).replace(Path(folder, f"step_{str(step).zfill(6)}.ckpt"))
    _sync_folder(folder)


def save_and_clean(folder, step, data):
    path = folder / f".{step}.tmp"
    try:
        with path.open("wb", buffering=0) as file:
            file.write(_framed(data))
            os.fsync(file)
        path.rename(folder / f"step_{step:06d}.ckpt")
        _sync_folder(folder)
    finally:
        path.unlink(missing_ok=True)


def whole_by_text(folder):
    found = {}
    for path in folder.glob("step_*.ckpt"):
        digits = path.name[5:-5]
        raw = path.read_bytes()
        named = digits.isdigit() and len(digits) >= 6 and raw[64:65] == b"\n"
        if named and raw[:64].decode(errors="replace") == hashlib.sha256(raw[65:]).hexdigest():
            found[int(digits)] = raw[65:]
    return [(step, found[step]) for step in sorted(found, reverse=True)]


def whole_framed(folder):
    steps = sorted(
        (int(m[1]) for m in (re.fullmatch(NAME, n) for n in os.listdir(folder)) if m), reverse=True
    )
    raws = [(step, (folder / f"step_{step:06d}.ckpt").read_bytes()) for step in steps]
    return [[step, raw[65:]] for step, raw in raws if raw == _framed(raw[65:])]


def rotate_by_set(folder, keep):
    if keep <= 0:
        raise ValueError("keep at least one")
    steps = sorted(step for step, _ in whole_by_text(folder))
    for step in set(steps) - set(steps[-keep:]):
        os.remove(_path(folder, step))


def rotate_by_pop(folder, keep):
    if keep not in range(1, 10**9):
        raise ValueError(keep)
    found = whole_framed(folder)
    while len(found) > keep:
        _path(folder, found.pop()[0]).unlink()


RIGHT = {
    "save": [_save(), save_low, save_named, save_and_clean],
    "whole_checkpoints": [_whole(), whole_by_text, whole_framed],
    "rotate": [_rotate(), rotate_by_set, rotate_by_pop],
}
