"""Pictures become rows of bytes: any format, size and source, and what is refused."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pydantic import ValidationError

from jaxllm.data import DataConfig
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.picture import picture_of
from jaxllm.data.pictures import PicturesConfig
from jaxllm.data.tfds_corpus import TfdsCorpus
from jaxllm.data.tokenizer import ByteTokenizer

SIZE = 4


class Seen(tfds.core.GeneratorBasedBuilder):
    """Shades of grey with classes that have names, in two splits, as MNIST has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(SIZE, SIZE, 1)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(4)}

    def _generate_examples(self, first):
        for seed in range(first, first + 4):
            # As files: TFDS itself makes files of numbers with TensorFlow alone.
            yield seed, {"image": io.BytesIO(encoded(noise(seed=seed))), "label": seed % 2}


def noise(height=SIZE, width=SIZE, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)


def encoded(pixels, file_format="png", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def picture(value, **changes):
    options = {"key": "image", "size": SIZE, "num_channels": 3, "fit": "crop"} | changes
    return picture_of(ExampleRecord({"file": value}, "here:1"), "file", **options)


@pytest.fixture
def folders(tmp_path):
    """Ten pictures in each of two folders, of which one has another size."""
    for seed in range(20):
        side = SIZE if seed < 19 else 9
        path = tmp_path / "of" / "ab"[seed % 2] / f"{seed:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(side, side, 3, seed=seed)))
    return tmp_path


def dataset(source, **options):
    given = {"source": source, "labels": ("a", "b"), "size": SIZE, "validation_every": 5}
    return PicturesConfig.model_validate(given | options)


def build(folder, source, **options):
    return DataConfig.model_validate(
        {
            "sequence_length": 5,
            "global_batch_size": 4,
            "datasets": {"seen": dataset(source, **options)},
            "root": str(folder / "root"),
        }
    ).build()


def of_folders(folder):
    return {"type": "files", "paths": [f"{folder}/of/*/*.png"]}


def test_a_folder_of_each_class_is_read_and_needs_no_tokenizer(folders):
    """The rows are the very pixels of the files, each on one side of the split."""
    data = build(folders, of_folders(folders))
    expected = [noise(SIZE, SIZE, 3, seed=seed) for seed in (*range(0, 20, 2), *range(1, 19, 2))]
    found, labels = [], []
    for split in ("train", "validation"):
        rows = data.examples["seen"][split]
        batch = rows.read(range(rows.num_rows))
        assert batch["pixels"].dtype == np.uint8
        assert batch["pixels"].shape[1:] == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(batch["loss_mask"], 1)
        found += list(batch["pixels"])
        labels += batch["label"].tolist()
    assert (len(found), sorted(labels)) == (20, [0] * 10 + [1] * 10)
    assert data.examples["seen"]["validation"].num_rows == 4
    for pixels in expected:
        assert any(np.array_equal(pixels, one) for one in found)
    assert data.truncations() == []
    shapes = data.config.datasets["seen"].shapes(4, 5)
    batch = data.train_loader(seed=0).batch(0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items()
    }


def test_what_a_table_names_and_what_a_parquet_file_holds_is_the_same(folders):
    import pyarrow
    import pyarrow.parquet

    paths = sorted((folders / "of").glob("*/*.png"))
    lines = "".join(f"{path.parent.name},{path.stem}\n" for path in paths)
    (folders / "all.csv").write_text("kind,id\n" + lines)
    files = {"file": f"{folders}/of/{{kind}}/{{id}}.png"}
    of_table = {"type": "table", "paths": [f"{folders}/all.csv"], "files": files}
    held = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    kinds = [path.parent.name for path in paths]
    columns = {"file": held, "kind": kinds}
    pyarrow.parquet.write_table(pyarrow.table(columns), folders / "all.parquet")
    of_parquet = {"type": "parquet", "paths": [f"{folders}/all.parquet"]}
    expected = build(folders, of_folders(folders)).examples["seen"]["train"].read(range(16))
    for source in (of_table, of_parquet):
        rows = build(folders, source, label="kind").examples["seen"]["train"]
        for name, field in rows.read(range(16)).items():
            np.testing.assert_array_equal(field, expected[name], err_msg=name)


def test_a_tfds_dataset_of_pictures_has_them_as_numbers(tmp_path):
    builder = Seen(data_dir=str(tmp_path))
    builder.download_and_prepare(file_format="array_record")
    source = {"type": "tfds", "name": str(builder.data_dir)}
    options = {"image": "image", "label": "label", "num_channels": 1, "validation_every": 0}
    held_out = {**source, "split": "test"}
    found = build(tmp_path, source, validation_source=held_out, **options).examples["seen"]
    for split, first in (("train", 0), ("validation", 4)):
        batch = found[split].read(range(4))
        for pixels, label in zip(batch["pixels"], batch["label"], strict=True):
            seeds = [seed for seed in range(first, first + 4) if seed % 2 == label]
            assert any(np.array_equal(pixels, noise(seed=seed)[..., None]) for seed in seeds)


class OfNumbers(Seen):
    """The same as arrays, as MNIST's own code has them."""

    def _generate_examples(self, first):
        yield 0, {"image": noise()[..., None], "label": 0}


def test_a_tfds_dataset_that_only_tensorflow_makes_is_told_so(tmp_path, monkeypatch):
    corpus = TfdsCorpus("numbers", split="train", text_key="", data_dir=str(tmp_path))
    monkeypatch.setattr(TfdsCorpus, "_by_name", lambda *_: OfNumbers(data_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"needs TensorFlow.*array_record"):
        corpus.files()


def test_other_pictures_are_another_dataset(folders):
    before = build(folders, of_folders(folders))
    again = build(folders, of_folders(folders))
    assert again.folders == before.folders
    (folders / "of" / "a" / "00.png").write_bytes(encoded(noise(SIZE, SIZE, 3, seed=77)))
    assert build(folders, of_folders(folders)).folders != before.folders


def test_a_picture_in_another_folder_has_another_class(folders):
    """Also where the order of the files, and so that of their bytes, stays as it was."""
    before = build(folders, of_folders(folders), validation_every=0)
    last = sorted((folders / "of" / "a").iterdir())[-1]
    last.rename(folders / "of" / "b" / "-first.png")
    after = build(folders, of_folders(folders), validation_every=0)
    assert after.folders != before.folders
    labels = [data.examples["seen"]["train"].read(range(20))["label"] for data in (before, after)]
    assert [int(label.sum()) for label in labels] == [10, 11]


def test_a_picture_that_is_asked_about_needs_no_class():
    config = dataset({"type": "files", "paths": ["none"]})
    record = ExampleRecord({"file": encoded(noise(SIZE, SIZE, 3))}, "here")
    (only,) = config.encode(record, ByteTokenizer(), is_labelled=False)
    np.testing.assert_array_equal(only["pixels"], noise(SIZE, SIZE, 3).reshape(-1))
    assert set(only) == {"pixels"}


def test_colours_and_shades():
    grey = noise()
    in_colour = picture(encoded(grey))
    np.testing.assert_array_equal(in_colour, np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(picture(encoded(grey), num_channels=1)[..., 0], grey)
    for values in (grey, grey[..., None]):  # numbers in place of a file
        np.testing.assert_array_equal(picture(values, num_channels=1)[..., 0], grey)
    coloured = noise(SIZE, SIZE, 3)
    np.testing.assert_array_equal(picture(coloured), coloured)
    clear = np.concatenate([coloured, np.full((SIZE, SIZE, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(picture(encoded(clear)), coloured)
    deep = grey.astype(np.uint16) << 8
    np.testing.assert_array_equal(picture(encoded(deep), num_channels=1)[..., 0], grey)


def test_what_is_too_long_is_cut_off_on_both_sides_or_squeezed():
    wide = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    wide[:, SIZE : 2 * SIZE] = 200
    np.testing.assert_array_equal(picture(encoded(wide), fit="crop"), 200)
    squeezed = picture(encoded(wide), fit="squeeze").astype(int)
    assert squeezed.min() < 100 < squeezed.max()
    np.testing.assert_array_equal(squeezed, squeezed[:, ::-1])
    large = np.full((40, 30, 3), 90, np.uint8)
    np.testing.assert_array_equal(picture(encoded(large)), 90)


def test_a_camera_that_was_turned():
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = 6  # it has to be turned to the right to be looked at
    found = picture(encoded(pixels, exif=exif.tobytes()), num_channels=1)
    np.testing.assert_array_equal(found[..., 0], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no picture", "here:1: 'file' cannot be read as a picture: no known format"),
        (encoded(noise(64, 64))[:-600], "here:1: 'file' cannot be read as a picture: .*truncated"),
        ("a.png", "'file' is a str, not the bytes of a picture; where tables name .*source.files"),
        (noise().astype(np.float32), r"float32 of shape \(4, 4\); give bytes"),
        (noise(4, 4, 2), r"uint8 of shape \(4, 4, 2\); give bytes"),
    ],
)
def test_what_is_no_picture_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        picture(value)


def test_a_class_that_is_not_among_the_names_is_refused_with_its_file(folders):
    source = of_folders(folders)
    with pytest.raises(ValueError, match=r"seen\.label: .*b/01\.png: 'folder' is 'b'"):
        build(folders, source, labels=("a", "c"))
    with pytest.raises(ValidationError, match="a name is given twice"):
        dataset(source, labels=("a", "a"))
