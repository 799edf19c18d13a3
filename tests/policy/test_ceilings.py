from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wisp.errors import InvalidPolicy, NotFound
from wisp.names import ClassName
from wisp.policy.ceilings import Ceilings, class_of, default_policies_dir
from wisp.policy.narrowing import LIMITS
from wisp.policy.scanner import MAX_BYTES

POLICIES = Path(__file__).parents[2] / "policies"


def texts() -> dict[str, bytes]:
    return dict(Ceilings.load(POLICIES).texts)


def test_the_defaults_are_where_they_are_looked_for() -> None:
    assert default_policies_dir() == POLICIES
    loaded = Ceilings.load(POLICIES)
    assert list(loaded.classes) == ["free", "standard"]
    assert loaded.ceiling.limits.fuel == 20 * 10**9
    assert loaded.for_class(ClassName("free")).limits.memory == 64 * 2**20


def test_the_config_map_holds_exactly_the_documents() -> None:
    kustomization = yaml.safe_load((POLICIES / "kustomization.yaml").read_text())
    (config_map,) = kustomization["configMapGenerator"]
    assert sorted(config_map["files"]) == sorted(f"{name}.yaml" for name in texts())


def test_no_class_reaches_above_the_ceiling_and_standard_is_the_larger() -> None:
    loaded = Ceilings.load(POLICIES)
    free, standard = loaded.for_class(ClassName("free")), loaded.for_class(ClassName("standard"))
    for key in LIMITS.keys() - {"outbound_requests"}:  # which all of them leave at what it is unsaid
        assert getattr(free.limits, key) < getattr(standard.limits, key) <= getattr(loaded.ceiling.limits, key)
    for key, share in free.quota.model_dump().items():
        assert share < getattr(standard.quota, key)


def test_an_unknown_class() -> None:
    with pytest.raises(NotFound, match="there is no tenant class gold; there are: free, standard"):
        Ceilings.load(POLICIES).for_class(ClassName("gold"))


def test_the_digest_changes_with_any_byte_and_any_name() -> None:
    digests = {Ceilings.parse(texts()).digest}
    digests.add(Ceilings.parse(texts() | {"ceiling": texts()["ceiling"] + b"\n"}).digest)
    digests.add(Ceilings.parse(texts() | {"class-gold": texts()["class-free"]}).digest)
    digests.add(Ceilings.parse({name: text for name, text in texts().items() if name != "class-free"}).digest)
    assert len(digests) == 4
    assert Ceilings.parse(dict(reversed(texts().items()))).digest == Ceilings.load(POLICIES).digest


def test_every_document_shows_its_faults(tmp_path: Path) -> None:
    (tmp_path / "ceiling.yaml").write_bytes(texts()["ceiling"] + b"fule: 1\n")
    (tmp_path / "class-free.yaml").write_bytes(texts()["class-free"].replace(b"weight: 1", b"weight: yes"))
    (tmp_path / "class-Gold.yaml").write_bytes(texts()["class-free"])
    (tmp_path / "other.yaml").write_bytes(b"?")
    with pytest.raises(InvalidPolicy, match="3 faults, the first: ceiling: fule, line ") as caught:
        Ceilings.load(tmp_path)
    assert [fault.field for fault in caught.value.faults] == [
        "ceiling: fule",
        "class-Gold: class",
        "class-free: weight",
    ]
    assert caught.value.faults[2].line is not None


def test_without_a_ceiling_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "class-free.yaml").write_bytes(texts()["class-free"])
    with pytest.raises(InvalidPolicy, match=r"ceiling\.yaml cannot be read: No such file or directory"):
        Ceilings.load(tmp_path)
    with pytest.raises(InvalidPolicy, match="there is no ceiling"):
        Ceilings.parse({"class-free": texts()["class-free"]})


def test_a_large_file_is_refused_and_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "ceiling.yaml").open("wb") as file:
        file.truncate(MAX_BYTES * 1000)
    with pytest.raises(InvalidPolicy, match="larger than 64 KiB"):
        Ceilings.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["", "free", "class-", "class-A", "class-a/b", "class-../a", "ceiling2", "kustomization"]
)
def test_document_names(name: str) -> None:
    with pytest.raises(InvalidPolicy):
        class_of(name)
    assert class_of("class-free") == "free"


class TestRevised:
    def test_what_parses_is_taken_and_what_does_not_stays(self) -> None:
        loaded = Ceilings.load(POLICIES)
        lower = texts()["ceiling"].replace(b"fuel: 20G", b"fuel: 1G")
        revision = loaded.revised(texts() | {"ceiling": lower, "class-free": b"wisp: 1\nkind: class\nlimts: {}\n"})
        assert revision.ceilings.ceiling.limits.fuel == 10**9
        assert revision.ceilings.classes[ClassName("free")] is loaded.classes[ClassName("free")]
        assert revision.ceilings.texts["class-free"] == texts()["class-free"]
        assert revision.ceilings.digest != loaded.digest
        assert list(revision.faults) == ["class-free"]
        assert any(fault.line == 3 for fault in revision.faults["class-free"])

    def test_it_is_the_same_value_while_nothing_changes(self) -> None:
        loaded = Ceilings.load(POLICIES)
        assert loaded.revised(texts()).ceilings is loaded
        assert loaded.revised(texts() | {"ceiling": b"broken: ["}).ceilings is loaded

    def test_a_document_that_is_gone_still_holds(self) -> None:
        loaded = Ceilings.load(POLICIES)
        revision = loaded.revised({"class-free": texts()["class-free"]})
        assert revision.ceilings is loaded
        assert sorted(revision.faults) == ["ceiling", "class-standard"]

    def test_a_class_may_come(self) -> None:
        loaded = Ceilings.load(POLICIES)
        revision = loaded.revised(texts() | {"class-tiny": texts()["class-free"], "class-No": b"", "other": b""})
        assert sorted(revision.ceilings.classes) == ["free", "standard", "tiny"]
        assert sorted(revision.faults) == ["class-No", "other"]

    def test_it_is_what_parsing_all_of_it_would_be(self) -> None:
        changed = texts() | {"class-tiny": texts()["class-free"]}
        assert Ceilings.load(POLICIES).revised(changed).ceilings == Ceilings.parse(changed)


def test_answers_can_be_kept_within_the_room_that_there_is() -> None:
    loaded = Ceilings.load(POLICIES)
    limits = loaded.ceiling.limits
    assert loaded.within(limits.response_body + limits.logs) is loaded
    for room in (limits.response_body, 1000):
        cut = loaded.within(room).ceiling.limits
        assert cut.response_body + cut.logs <= room
        assert cut.model_copy(update={"response_body": limits.response_body, "logs": limits.logs}) == limits
