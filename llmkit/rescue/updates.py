"""Was an update interrupted halfway? Adam counts its updates per parameter, so the counts tell.

updates = Updates(run.optimizer)
...                                 # count every update in updates.expected
if updates.torn(): roll back
"""

from __future__ import annotations

import torch


class Updates:
    """How many updates the optimizer has made, and how many it should have made.

    On a GPU `torn` waits for the device once per parameter: it is asked after a failure, not in every step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.expected = max(self._counts(), default=0)

    def _counts(self) -> set[int]:
        return {int(state["step"]) for state in self.optimizer.state.values() if "step" in state}

    def torn(self) -> bool:
        """Whether some parameter was updated in a step that did not end.

        State that was allocated for a first update that never came is taken away again, so that the update
        can be done as the first.
        """
        if self._counts() - {self.expected}:
            return True
        if self.expected == 0:
            self.optimizer.state.clear()
        return False
