"""Images as records: where they come from, what becomes of them, and what is refused."""

import io

import numpy as np
import pytest
import torch

from thinwire.config import from_dict
from thinwire.data.config import DataConfig
from thinwire.data.encode import encode_all
from thinwire.data.images import encode_images
from thinwire.data.load import load
from thinwire.settings import ConfigError

Image = pytest.importorskip("PIL.Image")
CONFIG = DataConfig(task="image")


def png(colour, size=(4, 2), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def record(image, label="a"):
    return {"image": image, "label": label}


def test_bytes_dictionaries_paths_and_rows_of_values_are_images(tmp_path):
    (tmp_path / "x.png").write_bytes(png((10, 20, 30)))
    kinds = [
        png((10, 20, 30)),
        {"bytes": png((10, 20, 30)), "path": None},
        {"bytes": None, "path": str(tmp_path / "x.png")},
        [[[10, 20, 30]] * 4] * 2,
    ]
    for ((picture,),) in (encode_images([record(kind)], CONFIG, ("a",), None) for kind in kinds):
        assert picture.pixels.dtype == torch.uint8
        assert picture.pixels.shape == (3, 2, 4)
        assert picture.pixels[:, 1, 3].tolist() == [10, 20, 30]
        assert picture.labels == (0,)


def test_grey_has_three_equal_channels_and_a_size_is_resized_to():
    ((grey,),) = encode_images([record([[0, 255], [255, 0]])], CONFIG, ("a",), None)
    assert grey.pixels.tolist() == [[[0, 255], [255, 0]]] * 3
    ((large,),) = encode_images([record(png(7, mode="L"))], CONFIG, ("a",), 6)
    assert large.pixels.shape == (3, 6, 6)
    assert set(large.pixels.flatten().tolist()) == {7}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([record(b"no image")], "data.image: a record, column 'image': no image that can be read"),
        ([record({"path": "/nowhere/at/all.png"})], "no image that can be read"),
        ([record([[300]])], "allowed are the bytes of a file, or rows of whole numbers from 0 to 255"),
        ([record([[0.5]])], "allowed are the bytes of a file, or rows of whole numbers from 0 to 255"),
        ([{"img": b"", "label": "a"}], "there is no image; the columns are 'img', 'label'"),
        ([record(png(0)), record(png(0, (3, 3)))], "3 x 3 pixels, others have 4 x 2: data.image_size is missing"),
    ],
)
def test_what_is_no_image_is_named(records, said):
    with pytest.raises(ConfigError) as error:
        encode_images(records, CONFIG, ("a",), None)
    assert said in str(error.value)


def fill(folder, count):
    for name, colour in (("cat", 0), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(png((colour, index, 0)))


def test_a_folder_of_labels_holds_out_some_and_one_of_splits_has_them(tmp_path):
    fill(tmp_path / "pets", 20)
    data = load(DataConfig(task="image", source=str(tmp_path / "pets")), 0)
    assert data.classes == ("cat", "dog")
    assert {name: len(rows) for name, rows in data.clients.items()} == {"pets": 36}
    assert {name: len(rows) for name, rows in data.tests.items()} == {"pets": 4}
    fill(tmp_path / "split" / "train", 5)
    fill(tmp_path / "split" / "test", 3)
    data = load(DataConfig(task="image", source=str(tmp_path / "split"), partition="dirichlet", count=3), 0)
    assert sum(len(rows) for rows in data.clients.values()) == 10
    found = encode_all(data, None, DataConfig(task="image"), 8)
    assert found.tests["split"][0].pixels.shape == (3, 8, 8)
    assert set(found.owners["split"]) <= {"client-0", "client-1", "client-2"}
    with pytest.raises(ConfigError, match=r"data\.image_size = 16: the model takes images of 8 only"):
        encode_all(data, None, DataConfig(task="image", image_size=16), 8)


def test_a_parquet_file_and_a_hugging_face_data_set(write, tmp_path):
    rows = [{"img": {"bytes": png((i, 0, 0)), "path": None}, "label": i % 2} for i in range(20)]
    config = DataConfig(task="image", image="img", source=str(write("pets.parquet", rows)))
    assert encode_all(load(config, 0), None, config).clients["pets"][0].pixels.shape == (3, 2, 4)
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    made = datasets.Dataset.from_list(rows, features)
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "hub")
    config = DataConfig(task="image", image="img", source=str(tmp_path / "hub"))
    data = load(config, 0)
    assert data.classes == ("cat", "dog")
    assert encode_all(data, None, config).clients["hub"][0].pixels.shape == (3, 2, 4)


def test_digits():
    pytest.importorskip("sklearn")
    data = load(DataConfig(task="image", source="digits", partition="dirichlet", count=100, alpha=0.5), 0)
    assert data.classes == tuple("0123456789")
    assert sum(map(len, data.clients.values())) + len(data.tests["digits"]) == 1797
    pixels = np.array(data.clients["client-00"][0]["image"])
    assert pixels.shape == (8, 8)
    assert pixels.max() == 255


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"needs the library scikit-learn: pip install thinwire\[vision\]"):
        load(DataConfig(task="image", source="digits"), 0)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"source": "digits"}}, "allowed with resnet8, resnet18 and the source digits is image"),
        ({"model": {"name": "resnet8"}}, "allowed with resnet8, resnet18 and the source digits is image"),
        ({"data": {"task": "image", "source": "digits"}}, "model.name = 'embedded': it reads text"),
        (
            {
                "data": {"task": "image", "source": "digits"},
                "model": {"name": "resnet8"},
                "train": {"checkpointing": True},
            },
            "train.checkpointing = true",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(sections, said):
    with pytest.raises(ConfigError) as error:
        from_dict(sections)
    assert said in str(error.value)


def saved(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_grey_values_of_16_bits_are_read_at_full_range(dtype):
    values = np.array([[0, 257, 32896, 65535]], dtype)
    ((picture,),) = encode_images([record(saved(Image.fromarray(values), "TIFF"))], CONFIG, ("a",), None)
    assert picture.pixels[0].tolist() == [[0, 1, 128, 255]]
    ((picture,),) = encode_images([record(saved(Image.fromarray(values.astype("uint16"))))], CONFIG, ("a",), None)
    assert picture.pixels[0].tolist() == [[0, 1, 128, 255]]


def test_the_orientation_in_exif_is_honoured():
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    ((turned,),) = encode_images([record(saved(picture, exif=exif))], CONFIG, ("a",), None)
    assert turned.pixels.shape == (3, 4, 2)
    assert turned.pixels[0].argmax() == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_named(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    fill(tmp_path / "pets", 2)
    name = f"x.{kind.lower()}"
    (tmp_path / "pets" / "cat" / name).write_bytes(saved(noise, kind)[:-200])
    config = DataConfig(task="image", source=str(tmp_path / "pets"), image_size=8)
    with pytest.raises(ConfigError, match=rf"pets/cat/{name}, column 'image': no image that can be read"):
        encode_all(load(config, 0), None, config)


def test_values_beyond_16_bits_are_refused():
    for values in (np.array([[70_000]], "int32"), np.array([[0.5]], "float32")):
        with pytest.raises(ConfigError, match=r"no image that can be read: values are .*; allowed are 8 or 16 bits"):
            encode_images([record(saved(Image.fromarray(values), "TIFF"))], CONFIG, ("a",), None)


def test_folders_of_splits_in_every_spelling_and_what_is_left_out(tmp_path):
    fill(tmp_path / "Train", 5)
    fill(tmp_path / "val", 2)
    fill(tmp_path / "more", 1)
    (tmp_path / "Train" / "cat" / "Thumbs.db").touch()
    (tmp_path / "Train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "Train" / "labels.txt").touch()
    (tmp_path / "Train" / ".hidden").mkdir()
    data = load(DataConfig(task="image", source=str(tmp_path), split="validation"), 0)
    assert [len(rows) for rows in data.tests.values()] == [4]
    assert data.classes == ("cat", "dog")
    assert [text.partition(" (")[0] for text in data.left_out] == [
        "more",
        "Train/cat/Thumbs.db and 1 more",
        "Train/labels.txt",
    ]
    fill(tmp_path / "dev", 1)
    with pytest.raises(ConfigError, match="are both the validation split"):
        load(DataConfig(task="image", source=str(tmp_path)), 0)
