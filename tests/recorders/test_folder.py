from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest

from tracer.errors import UsageError
from tracer.recorders.folder import Answers, Folder


def test_logs_are_compressed_to_the_same_bytes_each_time(tmp_path):
    made = []
    for name in "ab":
        folder = Folder(tmp_path / name)
        (folder / "qemu.log").write_bytes(b"row\n" * 600_000)
        seen = []
        folder.compress(lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (2_400_000, 2_400_000)
        assert [file.name for file in folder.path.iterdir()] == ["qemu.log.gz"]
        made.append((folder / "qemu.log.gz").read_bytes())
    assert made[0] == made[1]
    assert made[0][4:8] == bytes(4)  # no time of its own
    assert gzip.decompress(made[0]) == b"row\n" * 600_000


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    for force in (False, True):
        with pytest.raises(UsageError, match="no empty folder"):
            Folder(tmp_path, force=force)
    assert (tmp_path / "mine").read_text() == "x"
    left = Folder(tmp_path / "left")
    (left / "console.log").write_text("x")
    with pytest.raises(UsageError, match="cut short; make a trace of it with dirtylog import qemu"):
        Folder(left.path)
    assert not list(Folder(left.path, force=True).path.iterdir())


def test_answers_stay_few_and_the_last_one_is_kept(tmp_path):
    answers = Answers(tmp_path / "migrate.json", {"qemu": 1})
    for number in range(10_001):
        answers.add(float(number), {"status": "active", "number": number})
    answers.save()
    body = json.loads((tmp_path / "migrate.json").read_text())
    numbers = [poll["number"] for poll in body["polls"]]
    assert 1000 <= len(numbers) <= 2001
    assert "final" not in body
    assert numbers[0] == 0
    assert len({after - before for before, after in pairwise(numbers)}) <= 2
    assert numbers[-1] > 9900
    answers.save(final=True)
    assert json.loads((tmp_path / "migrate.json").read_text())["final"]["number"] == 10_000
