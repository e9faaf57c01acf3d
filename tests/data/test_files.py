"""Which file of a folder is what, and what is left out of it, and why."""

import json

import pytest

from thinwire.data.config import DataConfig
from thinwire.data.files import domain_and_split, survey
from thinwire.data.load import load
from thinwire.data.sources import open_source
from thinwire.settings import ConfigError


@pytest.fixture
def put(tmp_path):
    """Files with ten records each; what a name ends with does not matter as long as nothing is read."""

    def files(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            records = [{"instruction": f"{name} {i}", "response": "r"} for i in range(10)]
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path

    return files


def opened(folder, **fields):
    return open_source(DataConfig(source=str(folder), **fields), 0)


def splits(source):
    return {domain: sorted(parts) for domain, parts in source.domains.items()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("north", ("north", "train")),
        ("st.mary-2", ("st.mary-2", "train")),
        ("north.train", ("north", "train")),
        ("north.dev", ("north", "validation")),
        ("north.VAL", ("north", "validation")),
        ("north_valid", ("north", "validation")),
        ("north-validation", ("north", "validation")),
        ("test_north", ("north", "test")),
        ("Test-north", ("north", "test")),
        ("dev.north", ("north", "validation")),
        ("train", ("folder", "train")),
        ("Dev", ("folder", "validation")),
        ("my_test_lab.train", ("my_test_lab", "train")),
        ("code.test.exec", None),
        ("north_test_2024", None),
        ("north.eval", None),
        ("north_test1", None),
        ("test_north_dev", None),
        ("contest", ("contest", "train")),
        ("devices", ("devices", "train")),
    ],
)
def test_a_name_says_domain_and_split(name, found):
    assert domain_and_split(name, "folder") == found


def test_held_out_files_are_no_clients_in_any_spelling(put):
    folder = put("north.jsonl", "north.dev.JSONL", "test_north.jsonl", "South.Train.Jsonl", "South_VALID.jsonl")
    assert splits(opened(folder)) == {"South": ["train", "validation"], "north": ["test", "train", "validation"]}


def test_every_format_is_found_in_whatever_case(put):
    ends = (".json", ".JSON", ".tsv", ".csv.GZ", ".json.gz", ".jsonl.zst", ".ndjson", ".Parquet")
    folder = put(*(f"c{number}{end}" for number, end in enumerate(ends)))
    assert len(opened(folder).domains) == len(ends)


def test_what_is_left_out_is_listed_with_the_reason(put):
    put("code.jsonl", "code.test.exec.jsonl", "code.xlsx", "notes.txt", "law.test.jsonl", ".hidden.jsonl")
    folder = put("pics/a.png")
    (folder / "broken.md").symlink_to(folder / "nowhere")
    listed = dict(text.rstrip(")").split(" (", 1) for text in opened(folder).left_out)
    assert set(listed) == {"code.test.exec.jsonl", "code.xlsx", "notes.txt", "law.test.jsonl", "broken.md", "pics"}
    assert listed["code.xlsx"] == "a format that is not read"
    assert listed["broken.md"] == "a link to nothing"
    assert listed["law.test.jsonl"].startswith("the test split of law, which has no training file")
    assert not any("law" in text for text in opened(folder, evaluate=("law",)).left_out)


@pytest.mark.parametrize(
    "name",
    ["south.xlsx", "south.jsonl.bz2", "south.eval.jsonl", "south_test_2024.jsonl", "web-dev.jsonl", "south/part.csv",
     "south.csv.zip"],
)  # fmt: skip
def test_a_client_that_would_be_lost_is_an_error(put, name):
    folder = put("north.jsonl", name)
    with pytest.raises(ConfigError, match=r"a client would be lost: (south|web-dev).*; or name the clients in"):
        opened(folder)
    assert any(text.startswith(name.partition("/")[0]) for text in opened(folder, clients=("north",)).left_out)


def test_a_link_to_nothing_is_a_lost_client(put):
    folder = put("north.jsonl")
    (folder / "south.jsonl").symlink_to(folder / "gone.jsonl")
    with pytest.raises(ConfigError, match=r"lost: south\.jsonl \(a link to nothing\)"):
        opened(folder)
    (folder / "east.jsonl").symlink_to(folder / "north.jsonl")
    (folder / "south.jsonl").unlink()
    assert splits(opened(folder)) == {"east": ["train"], "north": ["train"]}


def test_folders_in_a_folder_are_domains_or_splits(put, tmp_path):
    put("a/north/train.jsonl", "a/north/val.csv", "a/south/records.json")
    folder = put("b/train/north.jsonl", "b/test/north.jsonl")
    assert splits(opened(folder / "a")) == {"north": ["train", "validation"], "south": ["train"]}
    assert splits(opened(folder / "b")) == {"north": ["test", "train"]}
    put("c/north/a.jsonl", "c/north/b.jsonl", "c/south/train.jsonl")
    with pytest.raises(ConfigError, match=r"lost: north/a\.jsonl \(neither DOMAIN/SPLIT nor SPLIT/DOMAIN\)"):
        opened(folder / "c")


def test_two_files_of_one_split_are_refused(put):
    for names in (("a.dev.jsonl", "a_val.csv"), ("a.jsonl", "train-a.jsonl"), ("b\u00e9.csv", "be\u0301.jsonl")):
        folder = put(*(f"{abs(hash(names))}/{name}" for name in names))
        with pytest.raises(ConfigError, match="are both the"):
            survey(folder / str(abs(hash(names))))


def test_names_of_domains_are_composed_and_found(put):
    folder = put("zu\u0308rich.jsonl", "bern.jsonl")
    for name in ("zu\u0308rich", "z\u00fcrich"):
        config = DataConfig(source=str(folder), clients=(name,), evaluate=("bern",))
        assert list(load(config, 0).clients) == ["z\u00fcrich"]


@pytest.mark.parametrize("name", ["a\x1b[31m.jsonl", b"caf\xe9.jsonl".decode("utf-8", "surrogateescape")])
def test_a_name_that_cannot_be_shown_is_refused(put, name):
    with pytest.raises(ConfigError, match=r"control character|surrogate"):
        opened(put("north.jsonl", name))
