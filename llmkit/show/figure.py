"""A matplotlib figure that a notebook shows: without pyplot, without `%matplotlib inline`."""

from __future__ import annotations

import io

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """Registered nowhere: nothing to close, nothing to leak. In a cell it shows itself, as a PNG."""

    def _repr_png_(self) -> bytes:
        page = io.BytesIO()
        self.savefig(page, format="png")
        return page.getvalue()
