"""The calculator: parameters, FLOPs and the price of an incident, each number with its working. No torch
here.

from llmkit.cost import parameters, training_flops
print(parameters(laptop().model).explain())
"""

from llmkit.cost.activations import activations, logits, stage_activations
from llmkit.cost.flops import forward_flops, training_flops
from llmkit.cost.incident import (
    Hardware,
    data_incident,
    gpu,
    hardware,
    incident,
    lost_to_rescues,
    reference_incident,
)
from llmkit.cost.params import Shape, parameters, shape_of
from llmkit.cost.quantity import Quantity

__all__ = [
    "Hardware",
    "Quantity",
    "Shape",
    "activations",
    "data_incident",
    "forward_flops",
    "gpu",
    "hardware",
    "incident",
    "logits",
    "lost_to_rescues",
    "parameters",
    "reference_incident",
    "shape_of",
    "stage_activations",
    "training_flops",
]
