"""Who is put aside, and why: seen by the two owners whom it concerns, from Python and the shell, and by nobody else."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from peerlearn.cli import owner_status, run_settings
from peerlearn.cli.main import main
from peerlearn.status import QuarantinedPeer
from peerlearn.strategies.pairwise.strategy import Pairwise
from peerlearn.testing import PeerNetwork, blob_learner, gathered, until
from peerlearn.wire.cards import card_to_pb
from tests.support.liars import PATIENT, liar, scaled


def started(state: Path, name: str) -> Path:
    """As `up` leaves a directory that it has begun to use."""
    state.mkdir()
    run_settings.keep(
        run_settings.RunSettings(directory=state, learner="app:learner", name=name, strategy="pairwise", state=state)
    )
    return state


async def test_the_two_owners_see_why_and_no_card_says_a_word_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    village = PeerNetwork(timing=PATIENT)
    amber = village.peer("amber", blob_learner([0, 1, 2], 1), strategy=Pairwise())
    birch = village.peer("birch", blob_learner([0, 1, 2], 2), strategy=liar(Pairwise(), scaled))
    mine, its = started(tmp_path / "amber", "amber"), started(tmp_path / "birch", "birch")
    async with gathered(amber, birch), asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        telling = [tasks.create_task(owner_status.keep(amber, mine)), tasks.create_task(owner_status.keep(birch, its))]
        await until(lambda: (its / owner_status.FILE).exists())
        assert main(["show", "--state", str(mine)]) == 0
        assert "nobody" in capsys.readouterr().out
        cards = card_to_pb(amber.card), card_to_pb(birch.card)
        for _ in range(3):
            await amber.run(1)
            await birch.run(1)
        await until(lambda: bool(birch.complaints))
        ours, theirs = amber.status(), birch.status()
        assert ours.quarantined == (QuarantinedPeer(id=birch.id, name="birch", why=amber.quarantined[birch.id]),)
        assert not ours.complaints
        assert [complaint.by for complaint in theirs.complaints] == ["amber"]
        assert theirs.others == {"amber": "alive"}
        assert (ours.round, ours.version, ours.address) == (3, 3, amber.address)
        await until(lambda: "birch" in (mine / owner_status.FILE).read_text())
        await until(lambda: bool(json.loads((its / owner_status.FILE).read_text())["complaints"]))
        for before, now in zip(cards, (card_to_pb(amber.card), card_to_pb(birch.card)), strict=True):
            for changes in ("serial", "version", "learns_from", "histogram"):
                before.ClearField(changes)
                now.ClearField(changes)
            assert now == before
        for task in telling:
            task.cancel()
    for state, said in ((mine, "birch"), (its, "amber")):
        assert main(["show", "--state", str(state)]) == 0
        page = capsys.readouterr().out
        assert said in page
        assert "times as large" in " ".join(page.split())
        assert main(["show", "--state", str(state), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each.get("name", each.get("by")) for each in found["quarantined"] + found["complaints"]] == [said]
        assert (state / owner_status.FILE).stat().st_mode & 0o077 == 0, "accusations are for the owner"


def test_a_directory_that_says_nothing_of_it_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = started(tmp_path / "amber", "amber")

    def said(code: int, *arguments: str) -> str:
        assert main(["show", *arguments]) == code
        return capsys.readouterr().err

    assert "written while peerlearn up" in said(6, "--state", str(state))
    assert "nothing was kept there" in said(6, "--state", str(tmp_path / "missing"))
    for text in ("", "[]", "{}", '{"format": "peerlearn owner status 1"}', '{"format": "peerlearn owner status 2"}',
                 '{"format": "peerlearn owner status 1", "name": 1, "id": "", "strategy": "", "since": "",'
                 ' "quarantined": [], "complaints": []}'):  # fmt: skip
        (state / owner_status.FILE).write_text(text)
        assert "is damaged" in said(6, "--state", str(state))
    assert "not both" in said(2, "amber", "--state", str(state))
    assert "not both" in said(2)
    os.remove(state / owner_status.FILE)
    (state / owner_status.FILE).mkdir()
    assert "cannot read" in said(6, "--state", str(state))


def test_what_somebody_says_of_this_peer_cannot_draw_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = started(tmp_path / "amber", "amber")
    complaint = {"by": "b\x1b[2J[red]", "why": "[bold]x\x1b]0;title\x07"}
    found = {
        "format": owner_status.FORMAT, "name": "amber", "id": "a" * 32, "strategy": "pairwise", "since": "now",
        "quarantined": [], "complaints": [complaint],
    }  # fmt: skip
    (state / owner_status.FILE).write_text(json.dumps(found))
    assert main(["show", "--state", str(state)]) == 0
    page = capsys.readouterr().out
    assert "\x1b" not in page
    assert "[bold]x" in page
