"""Exercise 01, the dynamic loss scaler: the rules of `torch.amp.GradScaler`, a floor, and clipping."""

from __future__ import annotations

from llmkit.grade.exercise import Exercise, Prediction

from .gradients import CLIP, UNSCALE
from .scale import FLOOR, UPDATE

EXERCISE = Exercise(
    name="01_loss_scaler",
    version=1,
    title="The loss scaler",
    minutes=30,
    round="coding",
    difficulty=2,
    rows=("S5",),
    tasks=(UNSCALE, UPDATE, FLOOR, CLIP),
    predictions={
        "overflows until zero": Prediction(
            answer=166.0,
            because=(
                "65536 is 2**16 and the smallest positive float32 is 2**-149, so after 165 halvings the "
                "scale is still positive; the 166th rounds to 0. From there the scaled loss is 0, its "
                "gradients are 0 and finite, no overflow is seen, and unscaling computes 0 * (1/0) = NaN: "
                "torch's scaler steps, and the weights are NaN."
            ),
        )
    },
    hides=("train",),
    shortcuts=("GradScaler", "LossScaler", "clip_grad_norm_", "_amp_update_scale_"),
)
