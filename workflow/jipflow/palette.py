"""Colours that every picture and plot of the reports shares."""

from __future__ import annotations

# The colours of Okabe and Ito (Color Universal Design, 2008), which stay apart in the three kinds
# of colour blindness. Their black and dark blue would drown in a grey image: a light grey stands
# in. The order puts first what reads best there.
SEGMENT_COLOURS = (
    "#56b4e9",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#f0e442",
    "#d55e00",
    "#e6e6e6",
)

# Of the same palette those that show as thin lines on a white page and on a black one.
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def segment_colour(index: int) -> str:
    """Return the colour of the segment at this position of its segmentation, as ``#rrggbb``.

    Positions beyond the palette begin again: a name stands beside every colour.
    """
    return SEGMENT_COLOURS[index % len(SEGMENT_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue parts (0-255) of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
