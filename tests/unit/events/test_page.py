"""docs/events.md: made from the classes, and up to date."""

import subprocess
from pathlib import Path

import events_doc
import pytest

from peerlearn.events import KINDS

SCRIPT = Path(__file__).parents[3] / "scripts" / "events-doc"


def test_the_page_matches_the_classes():
    assert subprocess.run([SCRIPT, "--check"], check=False).returncode == 0


def test_a_stale_page_is_noticed(monkeypatch, tmp_path, capsys):
    page = tmp_path / "events.md"
    monkeypatch.setattr(events_doc, "PAGE", page)
    assert events_doc.main(check=True) == 1, "there is none"
    assert events_doc.main(check=False) == 0
    assert events_doc.main(check=True) == 0
    page.write_text(page.read_text().replace("HOST:PORT", "HOST"))
    assert events_doc.main(check=True) == 1
    assert "run scripts/events-doc" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_and_every_field_of_it_has_its_meaning(kind):
    section = events_doc.text().partition(f"\n### {kind.kind}\n")[2].partition("\n### ")[0]
    assert f"Class `{kind.__name__}`." in section
    for name in kind.__slots__:
        (row,) = (line for line in section.splitlines() if line.startswith(f"| `{name}` | "))
        assert len(row.split(" | ")[-1]) > 8
