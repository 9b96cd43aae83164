"""The doctor: records in, findings out. It has never met a fault, and needs no torch.

    from llmkit.diagnose import as_text, diagnose
    print(as_text(diagnose("runs/mine")))

`evidence.py` turns a run folder into questions, `rules/` asks them (one function a rule, whose docstring is
what `llmkit explain CODE` prints), `engine.py` orders the answers. A rule never guesses: what it lacks is in
`Diagnosis.not_judged`, with the instrument to attach.
"""

from llmkit.diagnose.engine import RULES, Doctor, diagnose, explain
from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.text import as_markdown, as_text

__all__ = ["RULES", "Chart", "Doctor", "as_markdown", "as_text", "diagnose", "explain"]
