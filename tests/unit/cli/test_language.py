"""Which language the reader gets."""

from __future__ import annotations

import pytest

from hostplane.cli.language import language


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "HOSTPLANE_LANG": "zh-Hans"}, "zh_CN"),
        ({"HOSTPLANE_LANG": "", "LC_MESSAGES": "zh_CN"}, "zh_CN"),
        ({"LANG": "zh_TW.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_first_variable_that_is_set_decides(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected
