"""docs/formats/logfiles.md, *Damage*.

Of each kind of damage, made on purpose in a good store, the check names exactly that. `--fix` keeps all that is whole,
and the second check is clean. What was cut out is in a `.damaged` file.
"""

from pathlib import Path

import pytest
from checked import check, found, repair
from damages import DAMAGES, GOLDEN, make, write_golden
from good_store import content, files, good_store

from nodes.logfiles.check.findings import Kind, Status
from swarm.logfiles.payload import Codec


@pytest.mark.parametrize("codec", Codec)
def test_a_good_store_is_clean(tmp_path: Path, codec: Codec) -> None:
    good_store(tmp_path, codec=codec)
    before = files(tmp_path)
    report = check(tmp_path)
    assert not report.findings
    assert report.status is Status.CLEAN
    assert report.files == 6
    assert report.records == 4 * 9 + 8 * 3 + 8 * 3 + 8 + 8 + 8
    assert repair(tmp_path).status is Status.CLEAN
    assert files(tmp_path) == before


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
@pytest.mark.parametrize("name", DAMAGES)
def test_exactly_the_damage_is_found(tmp_path: Path, name: str, codec: Codec) -> None:
    _, expected = make(name, tmp_path, codec=codec)
    before = files(tmp_path)
    report = check(tmp_path)
    assert found(report) == [(each.path, each.offset, each.length, each.kind, each.mendable) for each in expected]
    assert report.status is Status.DAMAGE_LEFT
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_whole_is_kept(tmp_path: Path, name: str) -> None:
    good_store(tmp_path / "good", 5)
    good = content(tmp_path / "good")
    data = tmp_path / "data"
    _, expected = make(name, data, 5)
    mendable = all(each.mendable for each in expected)
    report = repair(data)
    assert not report.errors
    assert [each.mended for each in report.findings] == [each.mendable for each in expected]
    if mendable:
        assert report.status is Status.REPAIRED
        assert check(data).status is Status.CLEAN
        left = content(data)
        assert not left - good
        assert (good - left).total() == sum(each.lost for each in expected)
    else:
        assert report.status is Status.DAMAGE_LEFT
        assert [each.kind for each in check(data).findings] == [each.kind for each in expected if not each.mendable]


def test_every_kind_is_made() -> None:
    kinds = set()
    for line in GOLDEN.glob("*/findings.json"):
        kinds |= {kind for kind in Kind if f'"{kind.value}"' in line.read_text()}
    assert kinds == set(Kind)


def test_the_golden_files_are_what_the_script_writes(tmp_path: Path) -> None:
    write_golden(tmp_path)
    assert files(tmp_path) == files(GOLDEN)
