"""Keys by which a kubelet or containerd would run, or let in, whatever settings say: a host's root in other words.

Data. Whoever can write a Host could otherwise become root of its node without a signature: also by the registry or the
sandbox of every image. Beside the names that are known, whatever ends as the name of a file or an address does counts.
What is not here only tunes.
"""

from typing import Dict, NamedTuple, Sequence, Tuple

from . import containerd, kubelet

__all__ = ["MODELS", "opens"]


class _Doors(NamedTuple):
    """Lower-case names and endings of a key's first `depth` parts, and of tables that hide such keys when they go."""

    names: Tuple[str, ...]
    endings: Tuple[str, ...]
    depth: int
    tables: Tuple[str, ...] = ()


_KUBELET = _Doors(
    # the last line: other files at the model's usual places, kubeconfigs and credential providers
    tuple(
        "authentication authorization staticpodurlheader readonlyport "
        "apiversion kind providers users clusters contexts current-context spec".split()
    ),
    ("path", "file", "dir", "endpoint", "url"),
    1,
)
_CONTAINERD = _Doors(
    tuple(
        "binaryname runtime runtime_type runtime_engine shim base_runtime_spec conf_template cdi_spec_dirs imports "
        "proxy_plugins stream_processors disabled_plugins state uid gid nri io.containerd.nri.v1.nri "
        "registry pinned_images sandbox_image tcp_tls_common_name".split()
    ),
    ("path", "paths", "file", "files", "dir", "dirs", "address", "addresses", "root"),
    99,
    ("plugins", "io.containerd.", "cri"),
)
MODELS: Dict[str, _Doors] = {
    kubelet.MODEL: _KUBELET,
    kubelet.TYPED: _KUBELET,
    containerd.MODEL: _CONTAINERD,
    containerd.TYPED: _CONTAINERD,
}


def opens(model: str, path: Sequence[str], is_delete: bool = False) -> bool:
    """Whether setting, or deleting, the key with these parts opens one of them."""
    doors = MODELS[model]
    parts = [part.lower() for part in path[: doors.depth]]
    if is_delete and parts[-1].startswith(doors.tables):
        return True
    return any(part in doors.names or part.endswith(doors.endings) for part in parts)
