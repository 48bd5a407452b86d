"""The page's colours keep the contrast that https://www.w3.org/TR/WCAG22/ asks for, on light and on dark ground."""

import re
from itertools import combinations
from pathlib import Path

import pytest

STYLE = Path(__file__).parents[2] / "swarm" / "dashboard" / "static" / "style.css"
TEXT_MIN, GRAPHICS_MIN = 4.5, 3.0  # success criteria 1.4.3 and 1.4.11
NODES = [f"colour-{number}" for number in range(8)]
APART_MIN = 10.0  # of 100 * Oklab's distance: told apart side by side


def colours(scheme: str) -> dict[str, str]:
    """The custom properties that are colours: #rrggbb by name."""
    text = STYLE.read_text(encoding="utf-8")
    light, dark = (re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part) for part in text.split("@media", 2)[:2])
    return dict(light) | (dict(dark) if scheme == "dark" else {})


def linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(one: str, other: str) -> float:
    low, high = sorted(
        sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear(each), strict=True)) for each in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
"""Machado, Oliveira and Fernandes, 2009: what somebody without one kind of cones sees, in linear sRGB."""


def seen(colour: str, sight: tuple[tuple[float, ...], ...] | None) -> list[float]:
    parts = linear(colour)
    return parts if sight is None else [max(sum(a * b for a, b in zip(row, parts, strict=True)), 0.0) for row in sight]


def oklab(rgb: list[float]) -> list[float]:
    to_lms = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566))
    to_lms += ((0.0883024619, 0.2817188376, 0.6299787005),)
    lms = [sum(a * b for a, b in zip(row, rgb, strict=True)) ** (1 / 3) for row in to_lms]
    to_lab = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099))
    to_lab += ((0.0259040371, 0.7827717662, -0.8086757660),)
    return [sum(a * b for a, b in zip(row, lms, strict=True)) for row in to_lab]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    has = colours(scheme)
    for text in ("ink", "muted", "accent", "good", "warn", "bad"):
        for ground in ("card", "page", "track"):
            if text in ("ink", "muted") or ground == "card":
                assert contrast(has[text], has[ground]) >= TEXT_MIN, (text, ground)
    for state in ("good", "warn", "bad"):
        assert contrast(has[state], has[f"{state}-ground"]) >= TEXT_MIN, state
    for colour in NODES:
        assert contrast(has["on-arc"], has[colour]) >= GRAPHICS_MIN, colour  # large and bold


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_arcs_and_bars_can_be_seen(scheme: str) -> None:
    has = colours(scheme)
    for colour in [*NODES, "bar"]:
        assert contrast(has[colour], has["card"]) >= GRAPHICS_MIN, colour


@pytest.mark.parametrize("sight", [None, DEUTERANOPIA, PROTANOPIA], ids=["all", "deuteranopia", "protanopia"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_four_nodes_are_told_apart_by_colour_with_red_green_blindness_too(
    scheme: str, sight: tuple[tuple[float, ...], ...] | None
) -> None:
    has = colours(scheme)
    for one, other in combinations(NODES[:4], 2):
        places = [oklab(seen(has[each], sight)) for each in (one, other)]
        distance = 100 * sum((a - b) ** 2 for a, b in zip(*places, strict=True)) ** 0.5
        assert distance >= APART_MIN, (one, other, distance)
