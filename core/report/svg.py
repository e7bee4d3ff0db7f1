"""Matplotlib figures as SVG inside an HTML page: themed by its CSS, with ids of its own, repeatable."""

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the text colour of the page (CSS ``currentColor``)."""

SERIES = tuple(f"#01020{i}" for i in range(4, 10))
"""Stand for the page's data colours (CSS ``--series-1`` to ``--series-6``)."""

# Used where no CSS sets the variables: Okabe and Ito's colours (2008), told apart by the colour-blind.
_FALLBACK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_THEMED = {INK: "currentColor"} | {
    color: f"var(--series-{i}, {_FALLBACK[i - 1]})" for i, color in enumerate(SERIES, start=1)
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """SVG element for one figure, to be put into HTML as it is.

    It has no size of its own (only a ``viewBox``), text is text in the page's font, and the colours `INK` and
    `SERIES` follow the page. Equal figures give equal bytes.

    Parameters
    ----------
    figure
        Drawn without pyplot state.
    name
        Unique in the page: it begins every id, so that several figures share one page.
    label
        What a screen reader says in place of the figure.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor=figure.get_facecolor())
    root = ElementTree.fromstring(file.getvalue())
    for tag in ("metadata", "defs"):
        for element in root.findall(f"{{{_SVG}}}{tag}"):
            # The top-level defs hold clip paths, or a style sheet for "*", which would reach the whole page.
            for style in element.findall(f"{{{_SVG}}}style"):
                element.remove(style)
            if tag == "metadata" or not len(element):
                root.remove(element)
    elements = list(root.iter())
    used = {target for element in elements for target in _targets(element)}
    for element in elements:
        _rewrite(element, name, used)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _targets(element: ElementTree.Element) -> list[str]:
    values = " ".join(element.attrib.values())
    return [*re.findall(r"url\(#([^)]+)\)", values), element.get(_LINK, "#")[1:]]


def _rewrite(element: ElementTree.Element, name: str, used: set[str]) -> None:
    identity = element.attrib.pop("id", None)
    if identity in used:
        element.set("id", f"{name}-{identity}")
    if link := element.attrib.pop(_LINK, None):
        element.set("href", f"#{name}-{link[1:]}")
    if clip := element.get("clip-path"):
        element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
    if outline := element.get("d"):
        element.set("d", re.sub(r"-?\d+\.\d{3,}", _shorter, outline).replace("\n", ""))
    if style := element.get("style"):
        style = re.sub(r"font-family:[^;]*;? ?", "", style)
        element.set("style", re.sub(r"#[0-9a-f]{6}", lambda hit: _THEMED.get(hit[0], hit[0]), style))
    if element.tag == f"{{{_SVG}}}g" and element.text and not element.text.strip():
        element.text = None
    if element.tail and not element.tail.strip():
        element.tail = None


def _shorter(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
