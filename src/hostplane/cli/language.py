"""Which of the catalogue's languages the reader gets: HOSTPLANE_LANG, else LC_ALL, LC_MESSAGES, LANG."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hostplane.errors import Reason, reason, translate

__all__ = ["language", "phrase", "worded"]


def language(environment: Mapping[str, str] | None = None) -> str:
    """`zh_CN` for simplified Chinese, else `en`; the first variable that is set decides."""
    environment = os.environ if environment is None else environment
    for variable in ("HOSTPLANE_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(variable)
        if value:
            tag = value.partition(".")[0].replace("-", "_").lower()
            return "zh_CN" if tag in ("zh", "zh_cn", "zh_sg", "zh_hans", "zh_hans_cn") else "en"
    return "en"


def worded(why: Reason) -> tuple[str, str, str]:
    """(code, text, remedy) of a reason in the reader's language."""
    return translate(why.name, why.params, language())


def phrase(name: str, **params: object) -> str:
    """The text of a catalogue entry in the reader's language, for output that is not an error."""
    return worded(reason(name, **params))[1]
