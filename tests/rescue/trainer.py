"""A stand-in for a training process that test_restart.py keeps alive: it writes a run folder and dies as
told.

Its arguments: the folder, then one word for each of its lives: `kill`, `segv`, `term`, `hang`, `exit-75`,
`exit-3` (die so at step 7), `child` (leave a process behind and be killed), `stuck` (stop writing), `early`
(be killed before there is a folder), `finish`. With `--resume` it goes on from its newest checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from llmkit.folder import RunFolder
from llmkit.records import StepRecord, StepTimes

END, EVERY, DIES = 10, 5, 7


def main(path: Path, words: list[str], resume: bool) -> None:
    lives = Path(f"{path}.lives")
    life = len(lives.read_text()) if lives.exists() else 0
    lives.write_text("|" * (life + 1))
    word = words[min(life, len(words) - 1)]
    if word == "early":
        os.kill(os.getpid(), signal.SIGKILL)
    folder = RunFolder.open(path) if resume else RunFolder.create(path, {"config": {"micro_batch": 4}})
    start = max((int(p.name[5:]) for p in folder.checkpoints.glob("step-*")), default=0)
    folder.truncate("steps", start)
    for step in range(start, END):
        if step % EVERY == 0:
            (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        if step == DIES and word != "finish":
            die(word, path)
        folder.append(
            "steps", StepRecord(step=step, loss=3.0, grad_norm=1.0, lr=1e-3, tokens=100, loss_scale=8.0)
        )
        folder.append("times", StepTimes(step=step, total_s=0.5))


def die(word: str, path: Path) -> None:
    if word.startswith("exit-"):
        os._exit(int(word[5:]))
    if word == "stuck":
        Path(f"{path}.stuck").write_text(str(os.getpid()))
        signal.pause()
    if word == "child":
        left = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        Path(f"{path}.child").write_text(str(left.pid))
        word = "kill"
    os.kill(os.getpid(), getattr(signal, f"SIG{word.upper()}"))


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--resume"]
    main(Path(arguments[0]), arguments[1:], "--resume" in sys.argv)
