"""The command line as a user meets it: one sentence per mistake, documented exit codes, one JSON object."""

import io
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peerlearn import errors
from peerlearn.cli import cards
from peerlearn.cli.main import main
from peerlearn.cli.output import finite, plain, ranges
from peerlearn.directory import Contact
from peerlearn.directory.contacts import Liveness
from peerlearn.events import Opening, Started, read_events
from peerlearn.testing import timed
from peerlearn.types import Address, Card, Exposure, PeerId
from tests.support.command_line import ENV, app, listing, look, tag, up

__all__ = ["app", "tag"]  # fixtures

ROOT = Path(__file__).parents[2]
AT_ONCE = 4.0
"""Seconds that leaving may take: less than any deadline in it."""

COMMANDS = ("demo", "up", "resume", "ls", "show", "doctor", "version")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    """What the command says on stderr: one sentence, and this exit code."""
    assert main(arguments) == code
    err = capsys.readouterr().err.strip()
    sentence = err.splitlines()[-1]
    assert sentence.startswith("peerlearn: ")
    assert "Traceback" not in err
    return sentence


# ---------------------------------------------------------------- help, version, what is imported


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in COMMANDS), ["version"]])
def test_help_imports_neither_torch_nor_grpc(arguments):
    probe = textwrap.dedent("""
        import sys
        from peerlearn.cli.main import main
        code = main(sys.argv[1:])
        heavy = [m for m in ("torch", "grpc", "zeroconf", "numpy") if m in sys.modules]
        sys.exit(code or (f"imports {heavy}" if heavy else 0))
    """)
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, env=ENV, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_installed_command_tells_its_version():
    command = Path(sys.executable).with_name("peerlearn")
    done = subprocess.run([command, "version", "--json"], capture_output=True, text=True, check=True, env=ENV)
    assert json.loads(done.stdout.splitlines()[-1])["peerlearn"] == __import__("peerlearn").__version__


def test_every_command_can_speak_json(capsys):
    for command in COMMANDS:
        main([command, "--help"])
        assert "--json" in capsys.readouterr().out


def test_exit_codes_are_documented():
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    raised = {
        e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.PeerlearnError)
    }
    assert raised <= documented


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frob"], "No such command 'frob'"),
        (["demmo"], "demo"),
        (["demo", "--strateg", "pairwise"], "--strategy"),
        (["up"], "MODULE:NAME"),
        (["demo", "--rounds", "many"], "'--rounds'"),
        (["demo", "--strategy", "pairwize"], "did you mean 'pairwise'?"),
        (["demo", "--peers", "1"], "--peers must lie between 2 and"),
        (["demo", "--rounds", "0"], "--rounds must be at least 1"),
        (["up", "x:y", "--strategy", "distilation"], "did you mean 'distillation'?"),
        (["up", "x:y", "--peer", "nowhere"], "'nowhere' is not an address: write HOST:PORT"),
        (["up", "x:y", "--listen", "127.0.0.1:99999"], "is not an address"),
        (["up", "x:y", "--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["up", "no-module"], "is not an import path: write MODULE:NAME"),
        (["up", "no_such_module_here:learner"], "there is no module 'no_such_module_here': looked in"),
        (["up", "no_such_module_here:learner", "--set", "alfa=0.5"], "did you mean 'alpha'?"),
        (["ls", "--seconds", "0"], "--seconds"),
        (["group", "revoke", "x", "--group", "y", "--seconds", "nan"], "--seconds must be at least 0, not nan"),
        (["show"], "name the peer to show"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments, sentence, capsys):
    assert sentence in said(capsys, *arguments, code=2)


def test_a_group_of_commands_alone_prints_its_help_and_nothing_else(capsys):
    assert main(["group"]) == 0
    told = capsys.readouterr()
    assert "rotate" in told.out
    assert not told.err


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("lerner", 2, "did you mean 'learner'?"),
        ("needs_more", 2, "needs arguments"),
        ("number", 3, "is of type int, not a peerlearn.Learner"),
        ("model", 3, "Sequential, not a peerlearn.Learner: wrap your model and data"),
        ("breaks", 3, "IndexError: list index out of range"),
        ("leaves", 3, "SystemExit: no GPU here"),
        ("empty", 3, "empty"),
        ("labels", 3, "label"),
        ("not_a_number", 3, "finite|NaN|nan"),
    ],
)
def test_a_wrong_learner_is_one_sentence(app, name, code, sentence, capsys):
    assert re.search(
        re.escape(sentence) if "|" not in sentence else sentence, said(capsys, "up", f"{app}:{name}", code=code)
    )


def test_an_error_in_the_users_module_shows_the_users_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "boom_here.py").write_text("one = 1\nzero = one / 0\n")
    (tmp_path / "needs_pandaz.py").write_text("import pandaz\n")
    (tmp_path / "half_written.py").write_text("def learner(:\n")
    assert "boom_here.py, line 2: zero = one / 0)" in said(capsys, "up", "boom_here:learner", code=3)
    assert "needs_pandaz.py, line 1: import pandaz)" in said(capsys, "up", "needs_pandaz:learner", code=3)
    assert "half_written.py, line 1: def learner(:)" in said(capsys, "up", "half_written:learner", code=3)


def test_a_model_without_the_named_layer_is_told_which_layers_it_has(app, capsys):
    sentence = said(capsys, "up", f"{app}:learner", "--strategy", "pairwise", code=3)
    assert "penult" in sentence
    assert "'0'" in sentence or "0, 2" in sentence


def test_a_port_in_use_is_one_sentence(app, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = said(capsys, "up", f"{app}:learner", "--listen", f"127.0.0.1:{port}", code=4)
    assert str(port) in sentence


def test_listening_on_the_lan_needs_insecure(app, capsys):
    assert "insecure" in said(capsys, "up", f"{app}:learner", "--listen", "0.0.0.0:0", code=2)


def test_a_corrupt_state_directory_is_one_sentence(app, tmp_path, capsys):
    state = tmp_path / "state"
    assert main(["up", f"{app}:learner", "--rounds", "1", "--state", str(state)]) == 0
    capsys.readouterr()
    spoilt = [p for p in state.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")]
    assert spoilt
    for path in spoilt:
        path.write_bytes(b"\x00 not what was written")
    assert str(state) in said(capsys, "up", f"{app}:learner", "--rounds", "1", "--state", str(state), code=6)


def test_a_run_directory_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    assert "is not empty" in said(capsys, "demo", "--out", str(tmp_path), code=6)
    assert "cannot use" in said(capsys, "demo", "--out", str(tmp_path / "results.json"), code=6)


def test_with_json_an_error_is_an_object_too(capsys):
    assert main(["up", "x:y", "--strategy", "nothing-like-it", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["kind"] == "ConfigError"
    assert error["exit_code"] == 2


# ---------------------------------------------------------------- a live peer


async def test_two_peers_find_each_other_are_listed_and_leave_cleanly(app, tag, tmp_path):
    common = ("--group-tag", tag)
    async with up(app, "--name", "amber", *common, "--state", str(tmp_path / "amber"), "--json") as amber:
        async with up(app, "--name", "birch", *common, "--events", str(tmp_path / "birch.jsonl")) as birch:
            await birch.until("amber is here")
            await birch.until("learns from amber")

            listed = await listing(2, *common)
            assert {p["name"] for p in listed["peers"]} == {"amber", "birch"}
            assert all(p["status"] == "alive" for p in listed["peers"])
            seen = await look("show", "amber", *common)
            assert seen["name"] == "amber"
            assert "params.full" in seen["exposes"]
            assert seen["histogram"]
            assert seen["layers"][0]["shape"] == [8, 4]

            amber.process.send_signal(signal.SIGINT)
            with timed() as watch:
                out, err = await amber.process.communicate()
            assert amber.process.returncode == 0, err.decode()
            assert watch.seconds < AT_ONCE
            last = json.loads(out.decode().splitlines()[-1])
            assert last["name"] == "amber"
            assert last["learned_from"] == ["birch"]
            assert list((tmp_path / "amber").iterdir())

            await birch.until("amber left")  # a goodbye was heard; after mere silence it would be gone
            code, seconds, _, told = await birch.interrupt()
            assert code == 0, told
            assert seconds < AT_ONCE
    recorded = list(read_events(tmp_path / "birch.jsonl"))
    kinds = {each.event.kind for each in recorded}
    assert {"started", "peer", "phase", "fetched", "trained", "published", "stopped"} <= kinds
    assert isinstance(recorded[0].event, Opening), "every event says whose it is"
    (id,) = (each.event.id for each in recorded if isinstance(each.event, Started))
    assert {(each.source, each.source_name) for each in recorded} == {(id, "birch")}
    assert [each.t for each in recorded] == sorted(each.t for each in recorded)


async def test_addresses_that_lead_nowhere_cost_a_sentence_each_and_insecure_is_said_loudly(app, tag):
    """Nobody there, and somebody of another group; the peer goes on, and leaves cleanly."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, nobody = one.getsockname()[1], f"127.0.0.1:{other.getsockname()[1]}"
    stranger = f"127.0.0.1:{port}"
    insecure = ("--insecure", "--listen", f"0.0.0.0:{port}")
    told = ("--peer", nobody, "--peer", stranger)
    async with up(app, "--group-tag", tag, *insecure) as amber, up(app, "--group-tag", f"{tag}-x", *told) as birch:
        await amber.until(f"listens on 0.0.0.0:{port}")
        await birch.until(f"nobody answers at {nobody}", f"the peer at {stranger} is of another group")
        assert (await birch.interrupt())[0] == 0
        code, _, _, err = await amber.interrupt()
    assert code == 0
    assert "INSECURE" in err


def test_showing_a_peer_that_is_not_there(tag, capsys):
    assert "'amber'" in said(capsys, "show", "amber", "--seconds", "0.3", "--group-tag", tag, code=7)


def test_an_empty_lan_is_an_empty_list(tag, capsys):
    assert main(["ls", "--seconds", "0.3", "--group-tag", tag, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["peers"] == []


def test_doctor_prints_a_fix_beside_each_failure(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["ok"] is all(probe["ok"] for probe in report["probes"])
    assert code == (0 if report["ok"] else 4)
    assert all(probe["fix"] for probe in report["probes"] if not probe["ok"])


# ---------------------------------------------------------------- small parts


def test_names_from_the_network_cannot_draw_on_the_terminal():
    assert plain("am\x1b[31mber\n[red]x").plain == "am\N{REPLACEMENT CHARACTER}[31mber\N{REPLACEMENT CHARACTER}[red]x"


def test_json_knows_no_nan():
    assert finite({"a": float("nan"), "b": [float("inf"), 1.5]}) == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize("width", [80, 200])
def test_a_listing_says_everything_at_any_width(width):
    amber = contact("amber", exposes=frozenset({Exposure.PARAMS_FULL}), histogram=(3, 0, 5), classes=3)
    birch = contact("bi[red]rch", strategy="pairwise", learns_from=(amber.id,), status=Liveness.SUSPECT)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(cards.listing([amber, birch], width))
    text = console.export_text()
    for fact in (
        "amber",
        "bi[red]rch",
        amber.id[:8],
        "0, 2 of 3",
        "params.full",
        "nothing",
        "pairwise",
        "suspect",
        "version",
    ):
        assert fact in text
    assert max(map(len, text.splitlines())) <= width
    assert cards.in_short(birch, [amber, birch])["learns_from"] == ["amber"]
    assert cards.in_full(amber, [amber])["histogram"] == (3, 0, 5)


def contact(name: str, *, status: Liveness = Liveness.ALIVE, **fields: Any) -> Contact:
    card = Card(id=PeerId(secrets.token_hex(16)), name=name, session="s", **fields)
    return Contact(
        card=card, address=Address("127.0.0.1", 7), status=status, last_beat=0.0, since=0.0, version=4, reached=True
    )


def test_ranges():
    assert ranges([6, 0, 1, 2, 8, 9]) == "0-2, 6, 8-9"
    assert ranges([]) == ""
