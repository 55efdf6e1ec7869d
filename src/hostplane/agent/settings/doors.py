"""Keys by which a kubelet or containerd would run, or let in, whatever settings say: a host's root in other words.

Data. Whoever can write a Host could otherwise become root of its node without a signature. What is not here only tunes.
"""

from typing import Dict, FrozenSet, Sequence

from . import containerd, kubelet

__all__ = ["MODELS", "opens"]

_KUBELET = frozenset(
    "authentication authorization staticpodpath staticpodurl staticpodurlheader tlscertfile tlsprivatekeyfile "
    "readonlyport containerruntimeendpoint imageserviceendpoint volumeplugindir podlogsdir".split()
)
_CONTAINERD = frozenset(
    "binaryname runtime runtime_type runtime_path runtime_engine runtime_root shim configpath base_runtime_spec "
    "bin_dir bin_dirs conf_dir conf_template cdi_spec_dirs cni_conf_dir imports proxy_plugins stream_processors "
    "plugin_dir root state address uid gid path nri io.containerd.nri.v1.nri".split()
)
MODELS: Dict[str, FrozenSet[str]] = {
    kubelet.MODEL: _KUBELET,
    kubelet.TYPED: _KUBELET,
    containerd.MODEL: _CONTAINERD,
    containerd.TYPED: _CONTAINERD,
}


def opens(model: str, path: Sequence[str]) -> bool:
    """Whether the key with these parts is one of them: of the kubelet's by its first part, of containerd's by any."""
    parts = {part.lower() for part in (path[:1] if MODELS[model] is _KUBELET else path)}
    return not parts.isdisjoint(MODELS[model])
