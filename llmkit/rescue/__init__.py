"""THE CREW: it notices that a run is sick, treats it, and says what that cost.

from llmkit.rescue import supervise

for record in supervise(run, checkpoints):
    ...
"""

from llmkit.rescue.detector import Detector, Verdict
from llmkit.rescue.pace import Pace, Slow
from llmkit.rescue.policies import (
    DEFAULT,
    Case,
    HalveMicroBatch,
    LowerScale,
    Policy,
    RollBack,
    SkipStep,
    Trouble,
)
from llmkit.rescue.restart import cause_of_death, keep_alive, lost_work
from llmkit.rescue.supervisor import Supervisor, supervise
from llmkit.rescue.watchdog import HANG_EXIT, Watchdog

__all__ = [
    "DEFAULT",
    "HANG_EXIT",
    "Case",
    "Detector",
    "HalveMicroBatch",
    "LowerScale",
    "Pace",
    "Policy",
    "RollBack",
    "SkipStep",
    "Slow",
    "Supervisor",
    "Trouble",
    "Verdict",
    "Watchdog",
    "cause_of_death",
    "keep_alive",
    "lost_work",
    "supervise",
]
