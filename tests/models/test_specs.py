"""What names a model, and which names are refused."""

import pytest

import models
from models import ModelError
from models.specs import Spec, spec_of


@pytest.mark.parametrize(
    ("text", "spec", "short"),
    [
        ("resnet20", Spec("", "resnet20"), "resnet20"),
        ("torchvision:resnet50", Spec("torchvision", "resnet50"), "resnet50"),
        ("timm:vit_tiny.in21k", Spec("timm", "vit_tiny.in21k"), "vit_tiny"),
        ("hf:owner/all-MiniLM-L6-v2", Spec("hf", "owner/all-MiniLM-L6-v2"), "all-MiniLM-L6-v2"),
        ("hf:some/model.zip", Spec("hf", "some/model.zip"), "model"),
        ("a/b c.py:make", Spec("file", "a/b c.py", "make"), "make"),
        ("c:/a.py:make", Spec("file", "c:/a.py", "make"), "make"),
    ],
)
def test_the_parts_of_a_name(text: str, spec: Spec, short: str) -> None:
    assert spec_of(text) == spec
    assert models.short_name(text) == short


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE.py:FUNCTION"),
        ("timm:", "names no model"),
        ("keras:resnet50", "torchvision:NAME"),
        ("a.py", "a.py:make"),
        ("a.py:", "names no function"),
        ("a.py:b.c", "names no function"),
        ("some/folder", "hf:FOLDER_OR_NAME"),
        ("resnet21", "resnet20"),
    ],
)
def test_what_names_no_model(text: str, said: str) -> None:
    for refused in (models.preprocessing, models.get):
        with pytest.raises(ModelError, match=said) as error:
            refused(text)
        assert "\n" not in str(error.value)
