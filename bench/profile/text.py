"""Profiles as text: a table by module, and what would have to shrink."""

from __future__ import annotations

from collections.abc import Sequence

from bench.profile.rows import Change, LayerRow, heaviest, not_in_int8, slow_for_their_work
from bench.profile.run import Profile, Profiles
from bench.text_table import text_table

_HEAD = (
    "module",
    "kind",
    "type",
    "ms",
    "share",
    "sum",
    "operators",
    "channels",
    "MMACs",
    "GMAC/s",
    "of best",
)
_TEXT_COLUMNS = 3
_MOST_OF_THE_TIME = 0.6
_SLOW = 0.25
_DISTURBED = 0.1
_NAMED = 8


def render_profiles(profiles: Profiles, top: int) -> str:
    """All tables with their ``top`` longest rows, and what they say."""
    parts = [_render(profile, top) for profile in profiles.profiles]
    if profiles.changes:
        parts.append(_changes(profiles.profiles, profiles.changes, top))
    return "\n\n".join(parts)


def _render(profile: Profile, top: int) -> str:
    shown = profile.rows[:top]
    rows = [_cells(row) for row in shown]
    if len(shown) < len(profile.rows):
        left = profile.rows[top:]
        rows.append(_summary(f"{len(left)} more", left))
    rows.append(_summary("all", profile.rows))
    return "\n".join(
        [
            f"{profile.label}, {profile.runtime}: time by PyTorch module, one inference",
            text_table(_HEAD, rows, left=_TEXT_COLUMNS),
            "",
            *_verdict(profile),
        ]
    )


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        row.module,
        row.kind,
        row.precision,
        f"{row.ms:.3f}",
        f"{row.share:.1%}",
        f"{row.cumulated:.1%}",
        str(row.operators),
        "-" if row.outputs is None else str(row.outputs),
        f"{row.macs / 1e6:.1f}" if row.macs else "-",
        "-" if row.gmacs_per_s is None else f"{row.gmacs_per_s:.1f}",
        "-" if row.of_best is None else f"{row.of_best:.2f}",
    )


def _summary(name: str, rows: Sequence[LayerRow]) -> tuple[str, ...]:
    ms, macs = sum(row.ms for row in rows), sum(row.macs for row in rows)
    return (
        name,
        "",
        "",
        f"{ms:.3f}",
        f"{sum(row.share for row in rows):.1%}",
        f"{rows[-1].cumulated:.1%}",
        str(sum(row.operators for row in rows)),
        "",
        f"{macs / 1e6:.1f}" if macs else "-",
        f"{macs / ms / 1e6:.1f}" if macs and ms else "-",
        "",
    )


def _verdict(profile: Profile) -> list[str]:
    heavy = heaviest(profile.rows, _MOST_OF_THE_TIME)
    taken = heavy[-1].cumulated
    lines = [
        f"What would have to shrink: {len(heavy)} of {len(profile.rows)} rows take {taken:.0%} of "
        f"the time: {_listed([row.module for row in heavy])}."
    ]
    slow = slow_for_their_work(profile.rows, _SLOW)
    if slow:
        named = [f"{row.module} ({row.of_best:.2f})" for row in slow]
        lines.append(
            f"Slow for their MACs (under {_SLOW:.0%} of the speed of the best layer of their "
            f"type): {_listed(named)}. Fewer MACs win little there: look at channel counts, kinds "
            "and layouts."
        )
    lost = not_in_int8(profile.rows)
    if lost:
        lines.append(
            f"{len(lost)} of {len(profile.rows)} rows have Q/DQ but ran in float, wholly or in "
            f"part: {_listed([row.module for row in lost])}."
        )
    cost = profile.sum_ms - profile.latency_ms
    lines.append(
        f"Sum of all rows {profile.sum_ms:.3f} ms; latency without the profiler "
        f"{profile.latency_ms:.3f} ms (median). They differ by {cost:+.3f} ms: the cost of "
        "observing, less what runs between operators."
    )
    if cost < -_DISTURBED * profile.latency_ms:
        lines.append(
            "Warning: the sum is much the smaller, so the machine was busy with something else: "
            "interruptions hit whole inferences, and hardly ever an operator's median. Repeat it "
            "on a quiet machine."
        )
    return [*lines, *(f"Note: {note}" for note in profile.notes)]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _changes(profiles: Sequence[Profile], changes: Sequence[Change], top: int) -> str:
    base, other = profiles
    rows = [
        (
            change.module,
            _types(change),
            _milliseconds(change.base_ms),
            _milliseconds(change.ms),
            f"{change.difference:+.3f}",
        )
        for change in changes[:top]
    ]
    left = sum(change.difference for change in changes[top:])
    if len(changes) > top:
        rows.append((f"{len(changes) - top} more", "", "", "", f"{left:+.3f}"))
    whole = other.sum_ms - base.sum_ms
    rows.append(("all", "", f"{base.sum_ms:.3f}", f"{other.sum_ms:.3f}", f"{whole:+.3f}"))
    head = ("module", "type", f"{base.label} ms", f"{other.label} ms", "difference")
    slower = [change for change in changes if change.difference > 0]
    lost = sum(change.difference for change in slower)
    return "\n".join(
        [
            f"{base.label} against {other.label}, the largest differences first",
            text_table(head, rows, left=2),
            "",
            f"{len(slower)} of {len(changes)} rows became slower, by {lost:.3f} ms together"
            + (f": {_listed([change.module for change in slower])}." if slower else "."),
        ]
    )


def _types(change: Change) -> str:
    if change.base_precision == change.precision:
        return change.precision
    return f"{change.base_precision or '-'} -> {change.precision or '-'}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
