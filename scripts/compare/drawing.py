"""How figures look and how they are written: SVG whose colours follow the page's theme, and PNG.

A figure is drawn once per medium by the same code. For SVG it is drawn in marker colours, each of which becomes a CSS
variable of the page (`--s0`, `--text`, ...); text stays text, so it is searchable and takes the page's font.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

# Okabe and Ito's palette, told apart with any form of colour blindness; the baseline is the neutral one.
LIGHT_SERIES = ("#333333", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B", "#56B4E9")
# The same hues, light enough for a dark page.
DARK_SERIES = ("#e8e8e8", "#ff8a3d", "#5ab4f0", "#2fcf9f", "#e9a3c8", "#f0c040", "#9adcff")
# Parts of a whole (phases, components): these touch each other, so neighbours differ in lightness too.
LIGHT_PARTS = ("#4878a8", "#e0a458", "#6aa67c", "#b06a8c", "#8fb8de", "#c9573f", "#9a9a5a", "#7a6fb0", "#b9b9b9")
DARK_PARTS = ("#6a9fd4", "#e6b06a", "#7fbf93", "#c987a8", "#3f6e9a", "#e07a62", "#b5b56c", "#978cd0", "#6e6e6e")

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.4)),
    (0, (7, 2, 1.5, 2)),
    (0, (4, 1.2)),
    (0, (1, 1)),
    (0, (9, 3)),
)


@dataclass(frozen=True)
class Theme:
    """Colours of one medium."""

    text: str
    muted: str
    grid: str
    background: str
    series: tuple[str, ...]
    parts: tuple[str, ...]

    def variables(self) -> dict[str, str]:
        """CSS variable to colour."""
        names = {"text": self.text, "muted": self.muted, "grid": self.grid, "background": self.background}
        names |= {f"s{index}": colour for index, colour in enumerate(self.series)}
        return names | {f"p{index}": colour for index, colour in enumerate(self.parts)}


LIGHT = Theme("#1c1c1c", "#5f5f5f", "#e3e3e3", "#ffffff", LIGHT_SERIES, LIGHT_PARTS)
DARK = Theme("#e9e9e9", "#a8a8a8", "#3a3a3a", "#16181c", DARK_SERIES, DARK_PARTS)

# Colours that nobody would draw with, each to be replaced by its variable.
MARKS = Theme(
    "#010101",
    "#010102",
    "#010103",
    "#010104",
    tuple(f"#0102{index:02x}" for index in range(len(LIGHT_SERIES))),
    tuple(f"#0103{index:02x}" for index in range(len(LIGHT_PARTS))),
)


@dataclass
class Canvas:
    """A figure being drawn: one axis, its colours, and what the page shows on hover."""

    theme: Theme
    figure: Any
    axis: Any
    tips: list[str] = field(default_factory=list)

    @property
    def hovers(self) -> bool:
        """Whether there is a page that shows hover texts."""
        return self.theme is MARKS

    def colour(self, index: int) -> str:
        """Of the method with this number."""
        return self.theme.series[index % len(self.theme.series)]

    def part(self, index: int) -> str:
        """Of the part with this number."""
        return self.theme.parts[index % len(self.theme.parts)]

    def tip(self, text: str) -> str:
        """The id of an element whose hover text this is."""
        self.tips.append(text)
        return f"tip-{len(self.tips) - 1}"


@dataclass(frozen=True)
class Picture:
    """One figure of the report: how to draw it, its file name, what it shows in words, and its legend's entries."""

    name: str
    title: str
    description: str
    draw: Callable[[Canvas], None]
    legend: tuple[tuple[str, int], ...] = ()
    of_parts: bool = False
    size: tuple[float, float] = (5.4, 3.5)


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "font.size": 10,
        "text.color": theme.text,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "svg.fonttype": "none",
    }


def _drawn(picture: Picture, theme: Theme) -> Canvas:
    figure, axis = plt.subplots(figsize=picture.size, layout="constrained")
    canvas = Canvas(theme, figure, axis)
    picture.draw(canvas)
    return canvas


def handle(canvas: Canvas, index: int, of_parts: bool) -> Any:
    """What a legend shows for one entry."""
    if of_parts:
        return Line2D([], [], color=canvas.part(index), linewidth=7)
    return Line2D([], [], color=canvas.colour(index), linewidth=2, **line(index), markersize=5)


def line(index: int) -> dict[str, Any]:
    """Marker and dashes of the method with this number: colour is never the only difference."""
    # When the colours start again, marker and dashes are others.
    again = index // len(LIGHT_SERIES)
    return {"marker": MARKERS[(index + again) % len(MARKERS)], "linestyle": DASHES[(index + 2 * again) % len(DASHES)]}


def png(picture: Picture) -> bytes:
    """The figure in light colours, with title and legend."""
    with plt.rc_context(_style(LIGHT)):
        canvas = _drawn(picture, LIGHT)
        canvas.axis.set_title(picture.title, loc="left", fontweight="bold", fontsize=11)
        if picture.legend:
            add_legend(canvas, picture)
        data = io.BytesIO()
        # Without the version of matplotlib in it, the same data gives the same bytes for longer.
        canvas.figure.savefig(data, format="png", dpi=160, facecolor=LIGHT.background, metadata={"Software": None})
        plt.close(canvas.figure)
    return data.getvalue()


def add_legend(canvas: Canvas, picture: Picture) -> Legend:
    """Under the figure, in as many columns, up to three, as its names leave room for."""
    handles = [handle(canvas, index, picture.of_parts) for _, index in picture.legend]
    names = [name for name, _ in picture.legend]
    for columns in (3, 2, 1):
        legend = canvas.figure.legend(
            handles, names, loc="outside lower center", ncol=columns, fontsize=8.5, handlelength=3
        )
        if columns == 1 or legend.get_window_extent().width <= canvas.figure.bbox.width:
            break
        legend.remove()
    return legend


def svg(picture: Picture) -> str:
    """The figure as an inline SVG element, without title and legend: the page has them."""
    with plt.rc_context(_style(MARKS) | {"svg.hashsalt": picture.name}):
        canvas = _drawn(picture, MARKS)
        text = _saved(canvas)
    return _themed(text, picture.name, picture.description, canvas.tips)


def swatch(index: int, of_parts: bool = False) -> str:
    """A legend's sample of one entry, as an inline SVG element."""
    with plt.rc_context(_style(MARKS) | {"svg.hashsalt": f"swatch{index}"}):
        figure, axis = plt.subplots(figsize=(0.5, 0.17))
        axis.set_axis_off()
        axis.set_position((0, 0, 1, 1))
        axis.set(xlim=(0, 1), ylim=(0, 1))
        canvas = Canvas(MARKS, figure, axis)
        sample = handle(canvas, index, of_parts)
        sample.set(data=([0.02, 0.5, 0.98], [0.5, 0.5, 0.5]), markevery=[1])
        axis.add_line(sample)
        text = _saved(canvas)
    return _themed(text, f"swatch-{'p' if of_parts else 's'}{index}", "", [])


def _saved(canvas: Canvas) -> str:
    data = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.figure.savefig(data, format="svg", transparent=True, metadata=nothing)
    plt.close(canvas.figure)
    return data.getvalue()


def _themed(text: str, name: str, description: str, tips: list[str]) -> str:
    """Marker colours to variables, ids that are unique in the page, hover texts, no fixed size."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.S)
    for variable, colour in MARKS.variables().items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'id="tip-(\d+)[^"]*"', lambda match: f'data-tip="{html.escape(tips[int(match[1])])}"', text)
    text = re.sub(r'id="series-(\d+)[^"]*"', r'class="s\1"', text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    box = f'viewBox="0 0 {size[1]} {size[2]}"' if size else ""
    words = f'role="img" aria-label="{html.escape(description)}"' if description else 'aria-hidden="true"'
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" {box} {words}>'
    text = head + text[text.index(">") + 1 :]
    return re.sub(r"\n\s*", "\n", text).strip()
