"""Draws plots as SVG that stands in a page: no script, no fonts, no styles of its own; colours follow the page's.

matplotlib draws them in stand-in colours, which become classes of the page's style sheet, so that one drawing is
right on a light, a dark and a printed page. No text of models or data stands in a drawing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REMEDY = "pip install 'promptopt-suite[report]'"

# Stand-in colours, by the name that they have in the style sheet.
INK, MUTED, GRID, ACCENT, GOOD, BAD, OLD = (f"#01020{i}" for i in range(1, 8))
_CLASSES = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", GOOD: "good", BAD: "bad", OLD: "old"}
# For what is drawn as pixels, which cannot follow the page: seen on white and on black.
PIXELS = "#7d8aa0"

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Inches around the axes.
_BELOW, _ABOVE, _BESIDE = 0.62, 0.15, 0.2
# Inches of width below which a drawing fits a phone, and does not scroll.
_SMALL = 6
# Presentation attributes that matplotlib writes into styles, and a page without inline styles takes as attributes.
_KEPT = re.compile(r"(?:fill|stroke|opacity|text-anchor|clip)[a-z-]*|font-(?:size|weight|style)")
_STYLE = {
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 11,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
}


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(
    name: str,
    title: str,
    paint: Callable[[Axes], Mapping[str, Sequence[str]] | None],
    size: tuple[float, float] = (7.2, 4.0),
    left: float = 0.75,
) -> str:
    """Return the SVG of a plot.

    Args:
        name: tells apart the drawings of a page; letters only.
        title: what the drawing shows, for those who cannot see it.
        paint: draws into the axes; may return tooltips, by the gid of a collection of points in the points' order.
        size: inches, width and height.
        left: inches that the labels of the y axis take; measuring them would take as long as drawing.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=size, dpi=144)
        width, height = size
        low, high = _BELOW / height, 1 - _ABOVE / height
        axes = figure.add_axes((left / width, low, 1 - (left + _BESIDE) / width, high - low))
        tips = paint(axes) or {}
        file = io.StringIO()
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure)
        figure.savefig(file, format="svg", metadata=empty)
    kind = "plot small" if width < _SMALL else "plot"
    return _for_page(file.getvalue(), name, title, kind, tips)


def _for_page(drawn: str, name: str, title: str, kind: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Return a drawing as an element of a page, with its tooltips."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("style", "metadata"):
                parent.remove(child)
    for gid, texts in tips.items():
        group = root.find(f".//{{{_SVG}}}g[@id='{gid}']")
        points = [] if group is None else list(group.iter(f"{{{_SVG}}}use"))
        assert len(points) == len(texts), f"{len(texts)} tooltips for {len(points)} points"
        for point, text in zip(points, texts, strict=True):
            ElementTree.SubElement(point, f"{{{_SVG}}}title").text = text
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", drawn))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        _unstyle(element)
    _rename(root, name)
    root.set("class", kind)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def _unstyle(element: ElementTree.Element) -> None:
    """Turn an element's inline style into attributes, and stand-in colours into classes."""
    said = dict(part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part)
    for key, value in said.items():
        if _KEPT.fullmatch(key.strip()):
            element.set(key.strip(), value.strip())
    classes = []
    for key in ("fill", "stroke"):
        if (colour := element.get(key)) in _CLASSES:
            del element.attrib[key]
            classes.append(f"{key}-{_CLASSES[colour]}")
    if element.tag == f"{{{_SVG}}}text" and not classes:
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))


def _rename(root: ElementTree.Element, name: str) -> None:
    """Give the ids of a drawing its name, so that no two of a page are equal."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif value.startswith("url(#"):
                element.set(key, f"url(#{name}-{value[5:]}")
            elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
