"""Tables in markdown and one JSON object: what was measured, beside the paper's numbers, and which claims hold."""

from collections.abc import Sequence
from typing import Any

from peerlearn.experiments.report.rows import Row, Table, rows
from peerlearn.experiments.run.results import Stored
from peerlearn.experiments.spec import claims
from peerlearn.experiments.spec.claims import ClaimVerdict

_MAIN = ("private", "remote", "shared")
_COSTS = ("bytes_received", "bytes_sent", "seconds", "cpu_seconds")
_SHARES = ("private", "remote", "shared", "on_", "error", "own_error", "base", "consensus")
"""Metrics whose names begin so, and all accuracies, are shares, and shown in percent."""
_UNTOLD = (
    "bytes_all_peers",
    "wall_seconds",
    "failed_exchanges",
    "version",
    "seconds_local",
    "seconds_transfer",
    "seconds_per_answer",
)
_EMPTY = "-"
HOLDS = {True: "**holds**", False: "**does not hold**", None: "not measured"}
"""The last word on a claim."""


def summary(stored: Stored) -> dict[str, Any]:
    """`{"experiment", "rows", "claims"}`, with "skipped" and why when it could not be run."""
    found: dict[str, Any] = {
        "experiment": stored.head.name,
        "quick": stored.quick,
        "rows": [
            {"strategy": r.strategy, "variant": r.variant, "metric": r.metric, "mean": r.mean, "sd": r.sd, "n": r.n}
            for r in rows(stored)
        ],
        "claims": [
            {
                "id": v.claim.id, "says": v.claim.says, "formula": v.claim.formula, "comparison": v.comparison,
                "bar": v.bar, "value": v.value, "holds": v.holds,
            }
            for v in verdicts(stored)
        ],
    }  # fmt: skip
    return found | ({"skipped": stored.skipped} if stored.skipped else {})


def verdicts(stored: Stored) -> list[ClaimVerdict]:
    """Raises ConfigError for a metric that a claim names and that was not measured."""
    table = Table(stored)
    return [claims.judge(claim, table) for claim in stored.head.claims]


def markdown(stored: Stored, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """One experiment as a section. `pictures`: title and path of each."""
    head, found = stored.head, rows(stored)
    parts = [f"## {head.name}: {head.title}" if head.title else f"## {head.name}"]
    if stored.skipped:
        return "\n\n".join([*parts, f"Skipped: {stored.skipped}"]) + "\n"
    if stored.quick:
        parts.append("**Quick size:** few samples and rounds; it shows that everything runs, not what it is worth.")
    parts += [text for text in (head.note, _setting(stored)) if text]
    parts += [_accuracies(stored, found), *_more(stored, found), _costs(stored, found)]
    if head.paper.source:
        parts.append(f"Paper: {head.paper.source}. {head.paper.note}".rstrip())
    if head.claims:
        parts.append(_claims(verdicts(stored)))
    parts += [f"![{title}]({path})" for title, path in pictures]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- tables


def _setting(stored: Stored) -> str:
    """Where and how, in a line or two, and what is missing."""
    one = next((run for runs in stored.runs.values() for run in runs.values()), None)
    if one is None:
        return "No run is finished."
    versions = ", ".join(f"{name} {number}" for name, number in one.versions.items() if number)
    transports = sorted({run.transport for runs in stored.runs.values() for run in runs.values()})
    lacking = [
        f"{variant} (seed {seed})"
        for seed in stored.head.seeds
        for variant in stored.runs
        if seed not in stored.runs[variant]
    ]
    peers = ", ".join(sorted(one.measured))
    text = (
        f"Mean ± standard deviation over seeds, of the last {one.last} measured rounds, at "
        f"{peers}; over {' and '.join(transports)}; {versions}."
    )
    failed = {drawn: 0.0 for drawn in (True, False)}
    for run in (run for of_seeds in stored.runs.values() for run in of_seeds.values()):
        drawn = run.config.get("faults") is not None and run.transport == "memory"
        failed[drawn] += sum(peer.totals["failed_exchanges"] for peer in run.peers.values())
    if failed[True]:
        text += f" {failed[True]:.0f} exchanges failed by faults that the seed decides."
    if failed[False]:
        text += f" {failed[False]:.0f} exchanges failed, so runs are not repeatable to the bit."
    return text + (f" Not finished: {', '.join(lacking)}." if lacking else "")


def _accuracies(stored: Stored, found: Sequence[Row]) -> str:
    at = sorted({row.metric for row in found if row.metric.startswith("shared_at_private_")})
    columns = [*_MAIN, *at]
    titles = [*_MAIN, *(f"shared at private {metric.rpartition('_')[2]}" for metric in at)]
    body = []
    for variant in _variants(stored, found):
        cells = [_with_paper(stored, variant, metric, found) for metric in columns]
        body.append(
            [_named(stored, variant), *cells, str(max((r.n for r in found if r.variant == variant), default=0))]
        )
    return table(["", *titles, "seeds"], body)


def _with_paper(stored: Stored, variant: str, metric: str, found: Sequence[Row]) -> str:
    said = stored.head.paper.values.get(variant, {}).get(metric)
    text = _cell(_row(found, variant, metric))
    return f"{text} (paper {100 * said:.1f})" if said is not None else text


def _more(stored: Stored, found: Sequence[Row]) -> list[str]:
    """Every other metric, where there is one: a row per variant, a column per metric, eight at a time."""
    known = {*_MAIN, *_COSTS, *_UNTOLD}
    others = sorted(
        {row.metric for row in found if row.metric not in known and not row.metric.startswith("shared_at_private_")}
    )
    tables = []
    for begin in range(0, len(others), 8):
        chosen = others[begin : begin + 8]
        body = [
            [variant, *(_cell(_row(found, variant, metric)) for metric in chosen)]
            for variant in _variants(stored, found)
            if any(_row(found, variant, metric) for metric in chosen)
        ]
        tables.append(table(["", *(metric.replace("_", " ") for metric in chosen)], body))
    return tables


def _costs(stored: Stored, found: Sequence[Row]) -> str:
    body = []
    for variant in _variants(stored, found):
        received, sent, seconds, cpu = (_row(found, variant, metric) for metric in _COSTS)
        body.append([variant, _scaled(received, 1e6), _scaled(sent, 1e6), _scaled(seconds, 1), _scaled(cpu, 1)])
    return table(["per measured peer", "MB received", "MB sent", "seconds", "processor seconds"], body)


def _claims(judged: Sequence[ClaimVerdict]) -> str:
    body = []
    for verdict in judged:
        claim = verdict.claim
        word = HOLDS[verdict.holds]
        if claim.report_only and verdict.value is not None:
            word = "no bar"
        bar = f"{verdict.comparison} {verdict.bar:.4g}" if verdict.bar is not None else verdict.comparison or _EMPTY
        value = f"{verdict.value:.4g}" if verdict.value is not None else _EMPTY
        said = f"{claim.says} {claim.note}".strip()
        body.append([claim.id, said, f"`{claim.formula}`", bar, value, word])
    return table(["claim", "", "formula", "bar", "value", ""], body)


# ---------------------------------------------------------------- cells


def _variants(stored: Stored, found: Sequence[Row]) -> list[str]:
    there = {row.variant for row in found}
    return [variant for variant in stored.variants if variant in there]


def _named(stored: Stored, variant: str) -> str:
    setup = stored.variants[variant]
    name = f"*{variant}*" if setup["control"] else variant
    return f"{name}: {setup['says']}" if setup["says"] else name


def _row(found: Sequence[Row], variant: str, metric: str) -> Row | None:
    return next((row for row in found if row.variant == variant and row.metric == metric), None)


def _cell(row: Row | None) -> str:
    if row is None:
        return _EMPTY
    factor = 100 if row.metric.startswith(_SHARES) or "accuracy" in row.metric else 1
    mean, sd = factor * row.mean, factor * row.sd
    digits = 1 if factor == 100 or abs(mean) >= 10 else 3
    spread = f" ± {sd:.{digits}f}" if row.n > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def _scaled(row: Row | None, unit: float) -> str:
    if row is None:
        return _EMPTY
    mean = row.mean / unit
    return f"{mean:.{2 if mean < 10 else 1}f}"


def table(titles: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column to the left, all others to the right."""
    lines = [_line(titles), _line(["---"] + ["---:"] * (len(titles) - 1)), *map(_line, body)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
