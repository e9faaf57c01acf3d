"""What a source has, by domain and split, and how a wrong one is answered."""

import sys

import pytest

from thinwire.data import generator
from thinwire.data.config import DataConfig
from thinwire.data.sources import expand, open_source
from thinwire.settings import ConfigError


def opened(source, **fields):
    return open_source(DataConfig(source=str(source), **fields), seed=0).domains


def splits(catalogue):
    return {domain: sorted(parts) for domain, parts in catalogue.items()}


def test_the_generator_has_its_domains_and_limits():
    catalogue = opened("generator")
    assert tuple(catalogue) == generator.DOMAINS
    sizes = {split: len(read()) for split, read in catalogue["math"].items()}
    assert sizes == {"train": 1200, "validation": 64, "test": 64}
    few = opened("generator", train_limit=5, test_limit=3)["code"]
    assert {split: len(read()) for split, read in few.items()} == {"train": 5, "validation": 3, "test": 3}


def test_the_seed_changes_what_is_trained_on_and_not_what_is_tested():
    first, second = (open_source(DataConfig(), seed).domains["math"] for seed in (0, 1))
    assert first["train"]() != second["train"]()
    assert first["test"]() == second["test"]()
    assert first["validation"]() == second["validation"]()


def test_more_than_the_generator_has_is_refused():
    with pytest.raises(ConfigError, match=r"data\.train_limit = 99999999"):
        opened("generator", train_limit=99_999_999)["math"]["train"]()


def test_a_folder_gives_a_domain_a_stem_and_passes_other_names_over(write, records, tmp_path):
    for name in ("code.train.jsonl.gz", "code.test.csv", "code.test.exec.jsonl.gz", "north.jsonl", "st.mary.jsonl",
                 "law.validation.parquet", ".hidden.jsonl", "notes.txt.jsonl.bak"):  # fmt: skip
        write(name, records(3, name))
    assert splits(opened(tmp_path)) == {
        "code": ["test", "train"],
        "law": ["validation"],
        "north": ["train"],
        "st.mary": ["train"],
    }
    assert opened(tmp_path)["code"]["train"]() == records(3, "code.train.jsonl.gz")


def test_bare_split_names_are_the_splits_of_the_folder(write, records, tmp_path):
    write("gsm/train.jsonl", records(3))
    write("gsm/test.jsonl", records(2))
    assert splits(opened(tmp_path / "gsm")) == {"gsm": ["test", "train"]}


def test_two_files_of_one_split_are_refused(write, records, tmp_path):
    write("a.train.jsonl", records(1))
    write("a.csv", records(1))
    with pytest.raises(ConfigError, match="are both the train split of a"):
        opened(tmp_path)


def test_a_single_file_is_one_domain(write, records):
    path = write("code.train.jsonl", records(4))
    write("law.train.jsonl", records(4))
    assert splits(opened(path)) == {"code": ["train"]}
    assert splits(opened(write("mine.csv.gz", records(4)))) == {"mine": ["train"]}


def test_variables_and_home_are_expanded(monkeypatch, write, records, tmp_path):
    write("a.jsonl", records(3))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("$SOME_DATA", "${SOME_DATA}/a.jsonl", "~/a.jsonl"):
        assert splits(opened(source)) == {"a": ["train"]}
    assert expand("a/b") == "a/b"


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError, match=r"data\.source = '\$NOT_SET/x'.*NOT_SET is not set"):
        opened("$NOT_SET/x")


def test_a_missing_path_says_what_is_there(write, records, tmp_path):
    write("code.train.jsonl", records(1))
    for missing in (tmp_path / "code.tain.jsonl", tmp_path / "deep" / "er"):
        with pytest.raises(ConfigError) as caught:
            opened(missing)
        said = str(caught.value)
        assert f"data.source = {str(missing)!r}" in said
        assert f"{tmp_path} holds code.train.jsonl" in said


def test_a_relative_path_is_not_taken_for_a_hub_name(write, records, tmp_path, monkeypatch):
    write("data/code.jsonl", records(1))
    monkeypatch.chdir(tmp_path)
    for missing in ("data/cod", "./code", "code.jsonl", "a/b/c"):
        with pytest.raises(ConfigError, match="there is no such file or folder"):
            opened(missing)


def test_folders_and_files_that_are_no_data(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(20):
        (tmp_path / "many" / f"{number}.txt").touch()
    with pytest.raises(ConfigError, match=r"no file is named DOMAIN\.SPLIT\.SUFFIX; .* and 12 more"):
        opened(tmp_path / "many")
    with pytest.raises(ConfigError, match=r"ends with \.jsonl"):
        opened(tmp_path / "many" / "1.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds nothing"):
        opened(tmp_path / "empty")


def test_a_misspelt_generator_is_not_looked_up():
    with pytest.raises(ConfigError, match="did you mean generator"):
        opened("generatr")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_a_local_data_set_of_json_files(hub, write, records, tmp_path):
    write("mine/data/train.jsonl", records(5))
    write("mine/data/test.jsonl", records(2, "t"))
    catalogue = opened(tmp_path / "mine")
    assert splits(catalogue) == {"mine": ["test", "train"]}
    assert catalogue["mine"]["train"]() == records(5)
    assert catalogue["mine"]["test"]() == records(2, "t")


def test_shards_are_one_data_set_and_not_clients(hub, write, records, tmp_path):
    for number in range(2):
        write(f"sharded/train-0000{number}-of-00002.parquet", records(3, f"s{number}"))
    write("sharded/test-00000-of-00001.parquet", records(2))
    catalogue = opened(tmp_path / "sharded")
    assert splits(catalogue) == {"sharded": ["test", "train"]}
    assert len(catalogue["sharded"]["train"]()) == 6


def test_a_saved_data_set_with_class_labels(hub, tmp_path):
    features = hub.Features({"text": hub.Value("string"), "label": hub.ClassLabel(names=["sad", "glad"])})
    rows = hub.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, None]}, features=features)
    rows.save_to_disk(tmp_path / "moods")
    catalogue = opened(tmp_path / "moods")
    assert [row["label"] for row in catalogue["moods"]["train"]()] == ["glad", "sad", None]


def test_a_name_goes_to_the_library_with_its_configuration(hub, monkeypatch):
    asked = []

    def load_dataset(path, name):
        asked.append((path, name))
        return hub.DatasetDict(train=hub.Dataset.from_list([{"instruction": "a", "response": "b"}]))

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    assert splits(opened("openai/gsm8k:main")) == {"gsm8k": ["train"]}
    assert splits(opened("squad")) == {"squad": ["train"]}
    assert asked == [("openai/gsm8k", "main"), ("squad", None)]


def test_what_the_library_says_is_passed_on(hub, monkeypatch):
    def load_dataset(path, name):
        raise FileNotFoundError("Dataset 'x' doesn't exist on the Hub\nmore")

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(ConfigError, match=r"no file or folder here, .* \(Dataset 'x' doesn't exist on the Hub\)"):
        opened("nobody/x")
    monkeypatch.setattr(hub, "load_dataset", lambda *_: hub.DatasetDict(extra=hub.Dataset.from_list([{"a": 1}])))
    with pytest.raises(ConfigError, match="its splits are extra, none is train, validation, test"):
        opened("nobody/x")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install thinwire\[data\]"):
        opened("nobody/x")
