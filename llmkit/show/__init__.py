"""THE WINDOWS: plots, the report, the cockpit. They draw what other rooms computed.

from llmkit.show import cockpit, plots, write_report

write_report("runs/mine")
"""

from llmkit.show import plots
from llmkit.show.cockpit import Cockpit, cockpit
from llmkit.show.drift_lab import DriftLab, drift_lab
from llmkit.show.film_strip import FilmStrip, film_strip
from llmkit.show.memory_timeline import memory_timeline
from llmkit.show.number_line import NumberLine, number_line
from llmkit.show.report import write_report
from llmkit.show.scale_lab import ScaleLab, scale_lab
from llmkit.show.stability import StabilityExplorer, stability_explorer

__all__ = [
    "Cockpit",
    "DriftLab",
    "FilmStrip",
    "NumberLine",
    "ScaleLab",
    "StabilityExplorer",
    "cockpit",
    "drift_lab",
    "film_strip",
    "memory_timeline",
    "number_line",
    "plots",
    "scale_lab",
    "stability_explorer",
    "write_report",
]
