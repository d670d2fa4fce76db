"""`peerlearn doctor`: what makes discovery on a LAN fail, with the fix beside each failure."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from peerlearn.cli.output import Output, plain
from peerlearn.errors import GroupError, NetworkError

if TYPE_CHECKING:
    from peerlearn.cli.doctor.probes import Probe


def doctor(output: Output, group: Path | None = None) -> int:
    """Try everything, say everything; the exit code: that of NetworkError when something failed."""
    from peerlearn.cli.doctor import probes

    with output.console.status("Trying the network ..."):
        seen = asyncio.run(probes.examine())
        seen += [] if group is None else [_group(group)]
    failed = [probe for probe in seen if not probe.ok]
    output.result({"ok": not failed, "probes": [asdict(probe) for probe in seen]})
    if not output.as_json:
        output.console.print(_table(seen))
    output.say(f"{len(failed)} of {len(seen)} checks failed" if failed else f"All {len(seen)} checks passed")
    return NetworkError.exit_code if failed else 0


def _group(path: Path) -> "Probe":
    """Whether the group file can be used here and now."""
    from peerlearn.cli.doctor.probes import Probe
    from peerlearn.security import Group, Passport

    try:
        passport = Passport(Group.load(path))
    except GroupError as exc:
        said, _, fix = str(exc).partition(": ")
        return Probe("group", False, said, fix or "peerlearn group show")
    revoked = passport.revocations
    shut_out = len(revoked.certificates) + len(revoked.peers)
    return Probe("group", True, f"{passport.group.name!r} can be joined; {shut_out} entries revoked")


def _table(seen: list["Probe"]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for probe in seen:
        mark = "[green]ok[/green]" if probe.ok else "[bold red]FAIL[/bold red]"
        table.add_row(mark, plain(probe.name), plain(probe.detail))
        if probe.fix:
            table.add_row("", "", plain(f"fix: {probe.fix}"))
    return table
