"""A real training process for test_restart.py: its loader hangs at step 9 of its first life if told so."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path

from llmkit.data import generated
from llmkit.folder import RunFolder
from llmkit.observe import Recorder
from llmkit.rescue import Watchdog, supervise
from llmkit.train import Checkpoints, build, facts, tiny


class Hangs:
    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def batch(self, step):
        if step == 9:
            threading.Event().wait()
        return self.loader.batch(step)


def main(path: Path, hangs: bool, resume: bool) -> None:
    run = build(tiny(steps=14, model__width=32), dataset=generated(vocab_size=512))
    folder = RunFolder.open(path) if resume else RunFolder.create(path, facts(run))
    checkpoints = Checkpoints(folder.checkpoints)
    watchdog = Watchdog(run, hang_s=20.0 if not hangs else 3.0, exit_on_hang=True, poll_s=0.05)
    if resume:
        checkpoints.load(run)
        folder.truncate("steps", run.step)
    if hangs and not resume:
        run.loader = Hangs(run.loader)
    with Recorder(folder).attached(run):
        for _ in supervise(run, checkpoints, watchdog=watchdog, folder=folder):
            if run.step % 5 == 0:
                checkpoints.save(run)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in run.model.parameters()))
    (path / "digest").write_text(digest.hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "hang", "--resume" in sys.argv)
