"""Studies that take minutes: their sweeps, what they keep of a run, and the cells, shipped.

    from llmkit.lab.studies import STUDIES

    explosion = STUDIES["explosion"]
    cells = explosion.plan().cells(explosion.file)

`llmkit sweep --study explosion` runs what is missing; a test fails while anything is.
"""

from llmkit.lab.studies.explosion import explosion_sweep
from llmkit.lab.studies.mixture import mixture_sweep
from llmkit.lab.studies.seeds import crossed_sweep, recipes_sweep
from llmkit.lab.studies.stability import stability_sweep
from llmkit.lab.studies.study import Study

STUDIES = {
    "explosion": Study("explosion", explosion_sweep),
    "mixture": Study("mixture", mixture_sweep),
    "recipes": Study("recipes", recipes_sweep),
    "seeds": Study("seeds", crossed_sweep),
    "stability": Study("stability", stability_sweep),
}

__all__ = ["STUDIES", "Study"]
