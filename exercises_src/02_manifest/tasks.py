"""Exercise 02, the manifest: hashes of leaves, one digest for a data set, and the bytes that differ."""

from __future__ import annotations

from llmkit.grade.exercise import Exercise, Prediction

from .hashes import DIGEST, LEAVES
from .verify import VERIFY

EXERCISE = Exercise(
    name="02_manifest",
    version=1,
    title="The manifest",
    minutes=35,
    round="coding",
    difficulty=2,
    rows=("S2", "S14"),
    tasks=(LEAVES, DIGEST, VERIFY),
    predictions={
        "megabytes of hashes": Prediction(
            answer=32 * 200e9 / 2**20 / 1e6,
            because=(
                "200 GB are 190,735 leaves of 1 MiB, each with a hash of 32 bytes: 6.1 MB, or 0.003 percent. "
                "For that price a damaged data set is mended by fetching one MiB."
            ),
        )
    },
    hides=("data",),
    shortcuts=("file_digest", "llmkit.data"),
)
