"""A report as data, and its two forms: one HTML file that needs nothing else, and the same in Markdown with pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.errors import TickwatchError

# Okabe & Ito (2008): colours that people with any colour vision tell apart, both on white and on black; then line styles.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES: Final = ("-", "--", ":", "-.")

# Of axes and words in a picture: a grey for both grounds; in HTML the colour of the text around it takes its place.
INK: Final = "#7f8081"

Mark = Literal["", "best", "beaten", "off"]


@dataclass(frozen=True)
class Cell:
    """One number or word of a table: the `best` of its column, `beaten` where a baseline is, `off` where a promise broke."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, rows of as many cells, and what a reader must know to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure; `name` is that of its file, and `words` say what it shows."""

    name: str
    title: str
    figure: Figure
    words: str = ""

    @property
    def svg(self) -> str:
        """The SVG element, always the same for the same figure."""
        text = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        drawn = text.getvalue()
        return drawn[drawn.index("<svg") :]


@dataclass(frozen=True)
class Report:
    """A title, paragraphs, and then tables and pictures in their order."""

    title: str
    paragraphs: Sequence[str]
    parts: Sequence[Table | Picture] = field(default_factory=tuple)

    def html(self) -> str:
        """One file: no script, no address, no other file."""
        return _environment(autoescape=True).get_template("report.html").render(report=self, inline=_inline)

    def markdown(self) -> str:
        """The same; pictures are expected as NAME.svg beside it."""
        return _environment(autoescape=False).get_template("report.md").render(report=self, marked=_marked)

    def write(self, folder: Path) -> None:
        """Write report.html, report.md and its pictures. Raises TickwatchError where the folder can't hold them."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.html").write_text(self.html(), encoding="utf-8")
            (folder / "report.md").write_text(self.markdown(), encoding="utf-8")
            for part in self.parts:
                if isinstance(part, Picture):
                    (folder / f"{part.name}.svg").write_text(part.svg, encoding="utf-8")
        except OSError as error:
            raise TickwatchError(f"--output {folder}: {error.strerror}; give a folder that can be written") from error


def picture(width: float = 8.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure in ink that is readable on any ground, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.spines[:].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    return figure, axes


def legend(axes: Axes, beside: bool = False) -> None:
    """Names of the lines, in the ink of the picture; `beside` it where there are many."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {"loc": "best"}
    axes.legend(frameon=False, labelcolor=INK, **place)


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the n-th line, distinct for two dozen."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def number(value: float, digits: int = 3) -> str:
    """So many digits after the point, a dash for NaN."""
    return "-" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124  (NaN is not itself)


def with_interval(mean: float, half_width: float, digits: int = 3) -> str:
    """The mean and, where there is one, half the width of its confidence interval."""
    return number(mean, digits) if half_width != half_width else f"{mean:.{digits}f} ± {half_width:.{digits}f}"  # noqa: PLR0124


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("training", "."),
        autoescape=autoescape,  # noqa: S701  (off for Markdown alone)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _inline(part: Picture) -> Markup:
    return Markup(part.svg.replace(INK, "currentColor"))  # noqa: S704  (drawn by matplotlib from our own data)


def _marked(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return {"": text, "best": f"**{text}**", "beaten": f"**{text}** ▲", "off": f"{text} ✗"}[cell.mark]
