"""THE INSTRUMENTS: they look and never touch. With them or without, a run has the same bits.

from llmkit.observe import Recorder

with Recorder(folder).attached(run):
    list(train(run))
"""

from llmkit.observe.activations import Activations
from llmkit.observe.base import Observer
from llmkit.observe.exponents import Exponents
from llmkit.observe.gradients import Gradients
from llmkit.observe.nonfinite import Site, Tracer, trace_nonfinite
from llmkit.observe.postmortem import oom_event
from llmkit.observe.probes import PROBES, probe
from llmkit.observe.recorder import Recorder
from llmkit.observe.routing import Routing
from llmkit.observe.throughput import Throughput, throughput
from llmkit.observe.tokens import Tokens, token_share

__all__ = [
    "PROBES",
    "Activations",
    "Exponents",
    "Gradients",
    "Observer",
    "Recorder",
    "Routing",
    "Site",
    "Throughput",
    "Tokens",
    "Tracer",
    "oom_event",
    "probe",
    "throughput",
    "token_share",
    "trace_nonfinite",
]
