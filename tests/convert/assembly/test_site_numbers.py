"""K of the sites that have one of their own."""

import pytest
from torch import Tensor, nn

from convert import SiteError
from convert.assembly.site_numbers import by_site
from convert.capture.capture import capture
from convert.sites.find import Site, find_sites


@pytest.fixture(scope="module")
def sites(small_model: nn.Module, noise: Tensor) -> list[Site]:
    return find_sites(capture(small_model, noise).graph_module)


def test_names_and_globs(sites: list[Site]) -> None:
    assert by_site(sites, {}, "per_site_steps") == {}
    assert by_site(sites, {"si*": 7}, "per_site_steps") == {"silu": 7}
    # The last that matches decides.
    assert by_site(sites, {"*": 7, "act": 3}, "per_site_steps") == {"silu": 7, "act": 3}
    assert by_site(sites, {"act": 3, "*": 7}, "per_site_steps") == {"silu": 7, "act": 7}


def test_a_pattern_that_matches_nothing(sites: list[Site]) -> None:
    with pytest.raises(SiteError, match=r"no site matches 'head\*'; there are e\.g\. silu, act"):
        by_site(sites, {"act": 4, "head*": 3}, "per_site_steps")
