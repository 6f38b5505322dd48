"""Which files no other one beats in both mAP and latency."""

from __future__ import annotations

from collections.abc import Mapping


def front_of(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (latency, mAP) on the front, the fastest first.

    On it is what no other point beats in one and equals or beats in the other.
    """
    front: list[str] = []
    for name, (latency, score) in sorted(places.items(), key=lambda p: (p[1][0], -p[1][1])):
        if not front or score > places[front[-1]][1] or places[front[-1]] == (latency, score):
            front.append(name)
    return front
