"""Hugging Face models from folders, zip files and the cache; nothing is downloaded."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import models
from models import ModelError, NoPreprocessingError, Preprocessing, TextPreprocessing

transformers = pytest.importorskip("transformers", reason="transformers is optional")

_WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] to be or not that is the question".split()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT and its tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(_WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=20,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder.parent / "vocab.txt").write_text("\n".join(_WORDS))
    transformers.BertTokenizerFast(vocab=str(folder.parent / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2 of bytes and no tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("hub") / "gpt2"
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _zipped(folder: Path, file: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for part in folder.iterdir():
            archive.write(part, f"{inside}{part.name}")
    return file


@pytest.mark.parametrize("inside", [None, "", "a/model/"])
def test_a_folder_or_a_zip_of_it(bert: Path, tmp_path: Path, inside: str | None) -> None:
    place = bert if inside is None else _zipped(bert, tmp_path / "model.zip", inside)
    model, expected = models.get(f"hf:{place}"), transformers.AutoModel.from_pretrained(bert)
    assert type(model) is transformers.BertModel and not model.training
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(model(ids)[0], expected.eval()(ids)[0])
    prepare = models.preprocessing(f"hf:{place}")
    assert prepare == TextPreprocessing(str(place), len(_WORDS), 20, False, 20)
    assert prepare.load().encode("to be?", special=True) == [2, 5, 6, 1, 3]


def test_a_name_in_the_cache(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for commit, owner in (("1", "one"), ("2", "one")):
        place = tmp_path / f"models--{owner}--tiny-bert"
        shutil.copytree(bert, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("1")
    config = place / "snapshots" / "2" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 20', '"x": 1'))
    for name in ("hf:tiny-bert", "hf:one/tiny-bert"):
        assert models.preprocessing(name).positions == 20, "that of main"
        assert isinstance(models.get(name), transformers.BertModel)
    shutil.copytree(place, tmp_path / "models--two--tiny-bert")
    with pytest.raises(ModelError, match="one/tiny-bert, two/tiny-bert"):
        models.get("hf:tiny-bert")
    for absent in ("hf:nothing", "hf:three/tiny-bert"):
        with pytest.raises(ModelError, match="none of that name in the cache"):
            models.get(absent)


def test_a_language_model_of_bytes(gpt2: Path) -> None:
    model = models.get(f"hf:{gpt2}")
    assert isinstance(model, transformers.GPT2LMHeadModel) and not model.config.use_cache
    prepare = models.prepared(f"hf:{gpt2}", tokenizer="bytes", length=8)
    assert prepare == TextPreprocessing("bytes", 256, 12, True, 8)
    with pytest.raises(NoPreprocessingError, match="--tokenizer bytes"):
        models.preprocessing(f"hf:{gpt2}").load()
    with pytest.raises(ModelError, match="12 positions"):
        models.prepared(f"hf:{gpt2}", tokenizer="bytes", length=13)
    with pytest.raises(ModelError, match="--size is for images"):
        models.prepared(f"hf:{gpt2}", size=32)


def test_random_weights_and_those_of_a_file(gpt2: Path, tmp_path: Path) -> None:
    once, again, other = (models.get(f"hf:{gpt2}", "random", seed=s) for s in (1, 1, 2))
    weight = [m.transformer.wte.weight for m in (once, again, other)]
    assert torch.equal(weight[0], weight[1]) and not torch.equal(weight[0], weight[2])
    torch.save(once.state_dict(), tmp_path / "a.pt")
    kept = models.get(f"hf:{gpt2}", tmp_path / "a.pt")
    assert torch.equal(kept.transformer.wte.weight, weight[0])


def test_weights_that_do_not_fill_a_model(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "less"
    shutil.copytree(bert, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing .*\(encoder.layer.0.output.dense.weight"):
        models.get(f"hf:{folder}")


def test_code_that_comes_with_a_model_is_not_run(bert: Path, tmp_path: Path) -> None:
    folder, ran = tmp_path / "coded", tmp_path / "ran"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    for call in (models.get, models.preprocessing):
        with pytest.raises(ModelError, match="no model that transformers knows"):
            call(f"hf:{folder}")
    assert not ran.exists()


@pytest.mark.parametrize("content", ["nothing", "folder", "text", "zip", "damaged"])
def test_what_is_no_model(content: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if content in ("folder", "damaged"):
        place.mkdir()
    if content == "damaged":
        (place / "config.json").write_text('{"model_type": "no such model"}')
    if content == "text":
        place.write_text("hello")
    if content == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("a.txt", "hello")
    for call in (models.get, models.preprocessing):
        with pytest.raises(ModelError, match=r"config\.json|no zip file") as error:
            call(f"hf:{place}")
        assert "\n" not in str(error.value)


_NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": True}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"size": {"height": 24, "width": 24}, "resample": 2}, (24, 24, True, "bilinear")),
        (
            {
                "size": {"shortest_edge": 28},
                "crop_size": {"height": 24, "width": 24},
                "resample": 3,
            },
            (24, 28, False, "bicubic"),
        ),
        ({"size": {"shortest_edge": 28}, "crop_pct": 0.875}, (28, 32, False, "bilinear")),
        ({"size": 24}, (24, 24, False, "bilinear")),
        ({"size": {"height": 24, "width": 32}}, None),
        ({"size": {"longest_edge": 24}}, None),
        ({"size": 24, "do_pad": True}, None),
        ({"size": 24, "do_rescale": False}, None),
    ],
)
def test_image_processors(said: dict, found: tuple | None, tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        image_size=24, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=5, architectures=["ViTForImageClassification"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(_NORMAL | said))
    if found is None:
        with pytest.raises(NoPreprocessingError, match="--size"):
            models.preprocessing(f"hf:{tmp_path}")
        return
    size, resize, squash, kind = found
    mean, std = (0.5,) * 3, (0.25,) * 3
    expected = Preprocessing(size, mean, std, 5, resize, squash, kind)
    assert models.preprocessing(f"hf:{tmp_path}") == expected
    model = models.get(f"hf:{tmp_path}", "random")
    assert model(torch.zeros(1, 3, 24, 24)).logits.shape == (1, 5)


def test_an_image_is_that_of_the_library(tmp_path: Path) -> None:
    import numpy as np

    processor = transformers.ViTImageProcessor(
        size={"height": 30, "width": 30}, image_mean=[0.5] * 3
    )
    processor.save_pretrained(tmp_path)
    transformers.ViTConfig(architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)
    expected = torch.as_tensor(np.asarray(processor(image, return_tensors="pt").pixel_values))
    found = models.preprocessing(f"hf:{tmp_path}")(image[None])
    # The library may round to whole values once less.
    torch.testing.assert_close(found, expected, rtol=0, atol=2.1 / 255 / 0.5)
