"""Options that several verbs share, so that they read and behave the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["directory_option", "json_option", "kubeconfig_option"]

F = TypeVar("F", bound=Callable[..., Any])


def kubeconfig_option(function: F) -> F:
    """--kubeconfig: which cluster; default as kubectl's, or the pod's own account inside a cluster."""
    return click.option(
        "--kubeconfig",
        metavar="FILE",
        envvar="KUBECONFIG",
        type=click.Path(dir_okay=False),
        help="Cluster to use (default: KUBECONFIG, ~/.kube/config, or the pod's own account).",
    )(function)


def json_option(function: F) -> F:
    """--json: for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)


def directory_option(function: F) -> F:
    """--dir: where a local cluster lives."""
    return click.option(
        "--dir",
        "directory",
        metavar="D",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(".local/cluster"),
        show_default=True,
        help="Directory of the local cluster.",
    )(function)
