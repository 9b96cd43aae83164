"""Landlock: a process gives up, for itself and all it starts, what it will not need. No root, no namespaces.

The one idea: the source of this file runs at the start of the process that becomes the learner's kernel,
before anything of the learner's is read; what it gave up cannot be had back. It imports nothing of llmkit's.

    confine(read=["/usr"], write=["/tmp/lk-x"], listed=[])

System calls and flags: Linux, include/uapi/linux/landlock.h. docs/grading.md says what it leaves open.
"""

from __future__ import annotations

import ctypes
import os

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
PR_SET_NO_NEW_PRIVS = 38
EXECUTE, WRITE, READ, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ON_FILES = (
    EXECUTE | WRITE | READ | 1 << 14 | 1 << 15
)  # what may be allowed on a file; the rest on folders only
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI -> how many rights on files it knows
TCP = 0b11  # bind and connect, from ABI 4
SCOPES = 0b11  # abstract sockets and signals to processes outside, from ABI 6


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(ctypes.c_long(number), *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def abi() -> int:
    """The version of Landlock that this Linux speaks; 0 for none."""
    try:
        return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except (OSError, AttributeError):
        return 0


def confine(read: list[str], write: list[str], listed: list[str]) -> None:
    """From here on: read and execute below `read`, everything below `write`, names alone below `listed`.

    Paths that do not exist are passed over. TCP goes from ABI 4 on, signals to processes outside from ABI 6.

    Raises:
        OSError: Linux without Landlock, or it refuses.
    """
    version = abi()
    files = (1 << FILE_RIGHTS.get(version, 16)) - 1
    attributes = [files, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0]
    attributes = attributes[: 3 if version >= 6 else 2 if version >= 4 else 1]
    packed = (ctypes.c_uint64 * len(attributes))(*attributes)
    size = ctypes.c_size_t(ctypes.sizeof(packed))
    rules = _call(CREATE_RULESET, ctypes.byref(packed), size, ctypes.c_uint32(0))
    for paths, rights in ((read, EXECUTE | READ | READ_DIR), (write, files), (listed, READ_DIR)):
        for path in paths:
            _allow(rules, path, rights & files)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = rights if os.path.isdir(path) else rights & ON_FILES
    rule = rights.to_bytes(8, "little") + opened.to_bytes(4, "little")
    _call(ADD_RULE, ctypes.c_int(rules), ctypes.c_int(1), ctypes.c_char_p(rule), ctypes.c_uint32(0))
    os.close(opened)
