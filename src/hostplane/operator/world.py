"""What this process knows of the cluster: live copies of eight kinds, and since when a deleted node is gone.

Copies are trimmed before they are kept: of a Node's annotations only ours. A Node that only beat its heart, or an
object of which only the resource version changed, wakes nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import structlog

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Host
from hostplane.api.kubeos import OS, OSINSTANCE, KubeOS, OSInstance
from hostplane.api.ledger import LEDGER, LEDGER_NAME, Ledger
from hostplane.api.meta import ObjectMeta, Resource
from hostplane.api.nodegroup import NODEGROUP, NodeGroup
from hostplane.api.osimage import OSIMAGE, OSImage
from hostplane.api.rollout import ROLLOUT, Rollout
from hostplane.api.validate import check_group, check_os, check_rollout, refusal, settings_refusal
from hostplane.errors import ClusterError, Reason
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.planning.snapshot import DrainView, Snapshot, Word

__all__ = ["INSTANCE_NAMESPACE", "World"]

INSTANCE_NAMESPACE = "default"
"""Where KubeOS's proxies keep their OSInstances, always."""
_log = structlog.get_logger(__name__)


def _trim(meta: ObjectMeta) -> ObjectMeta:
    ours = {k: v for k, v in meta.annotations.items() if k.startswith("hostplane.dev/")}
    return msgspec.structs.replace(meta, annotations=ours, owner_references=[])


def _trim_node(node: Node) -> Node:
    return msgspec.structs.replace(node, metadata=_trim(node.metadata))


def _trim_host(host: Host) -> Host:
    return msgspec.structs.replace(host, metadata=_trim(host.metadata))


def _trim_instance(instance: OSInstance) -> OSInstance:
    return msgspec.structs.replace(instance, metadata=_trim(instance.metadata))


def is_noise(old: Any, new: Any) -> bool:
    """True where nothing but the resource version (a heartbeat, a managed field) changed."""
    if old is None or new is None:
        return False
    a, b = old.metadata, new.metadata
    if a.labels != b.labels or a.annotations != b.annotations or a.uid != b.uid or a.generation != b.generation:
        return False
    try:
        same_spec = bool(old.spec == new.spec)
        return same_spec and getattr(old, "status", None) == getattr(new, "status", None)
    except RecursionError:  # values nested too deeply to be compared are never the same
        return False


class World:
    """The informers of one operator. `on_change` is called, without arguments, whenever a pass is worth making."""

    def __init__(self, session: Session, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.gone: dict[str, float] = {}
        self._refused: dict[str, Reason] = {}
        self._warnings: dict[str, list[Reason]] = {}

        def informer(resource: Any, on_change: Any = self._changed, **more: Any) -> Informer[Any]:
            return Informer(session, resource, on_change=on_change, on_failure=_say_failure, **more)

        self.nodes: Informer[Node] = informer(NODE, self._node_changed, transform=_trim_node)
        self.hosts: Informer[Host] = informer(HOST, transform=_trim_host)
        self.instances: Informer[OSInstance] = informer(
            OSINSTANCE, namespace=INSTANCE_NAMESPACE, transform=_trim_instance
        )
        self.groups: Informer[NodeGroup] = informer(NODEGROUP, self._judged("group", check_group))
        self.rollouts: Informer[Rollout] = informer(ROLLOUT, self._judged("rollout", check_rollout))
        self.images: Informer[OSImage] = informer(OSIMAGE)
        self.oses: Informer[KubeOS] = informer(OS, self._judged("os", check_os))
        self.ledger: Informer[Ledger] = informer(LEDGER)

    def _all(self) -> tuple[Informer[Any], ...]:
        return (
            self.nodes,
            self.hosts,
            self.instances,
            self.groups,
            self.rollouts,
            self.images,
            self.oses,
            self.ledger,
        )

    async def run(self) -> None:
        """Keep all copies true until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._all():
                group.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until every kind was listed once."""
        for informer in self._all():
            await informer.synced()

    @property
    def is_synced(self) -> bool:
        """True once every kind was listed."""
        return all(informer.is_synced for informer in self._all())

    @property
    def stale_seconds(self) -> float:
        """How long the oldest cut-off copy has been without its watch."""
        return max(informer.stale_seconds for informer in self._all())

    def undecodable(self) -> Iterator[tuple[Resource[Any], str, str]]:
        """(kind, key, why) of every object that exists and could not be read."""
        for informer in self._all():
            for key, why in informer.undecodable.items():
                yield informer.resource, key, why

    def snapshot(self, drains: Mapping[str, DrainView], words: Mapping[str, Word], now: float) -> Snapshot:
        """What a pass looks at; `now` in seconds since 1970."""
        nodes = self.nodes.items()
        ledger = self.ledger.get(LEDGER_NAME) or Ledger(metadata=ObjectMeta(name=LEDGER_NAME))
        instances = {key.partition("/")[2]: value for key, value in self.instances.items().items()}
        hosts, holders = self.hosts.items(), ledger.spec.holders
        unread = self.nodes.undecodable
        missing = {name for name in (*holders, *instances, *hosts) if name not in nodes and name not in unread}
        self.gone = {name: self.gone.get(name, now) for name in missing}
        return Snapshot(
            nodes=nodes,
            hosts=self.hosts.items(),
            instances=instances,
            groups=dict(self.groups.items()),
            rollouts=dict(self.rollouts.items()),
            images=self.images.items(),
            oses=dict(self.oses.items()),
            ledger=ledger,
            drains=drains,
            words=words,
            gone=self.gone,
            refused=dict(self._refused),
            warnings=self._warnings,
            unread=frozenset(self.oses.undecodable),
        )

    def _changed(self, old: Any, new: Any) -> None:
        if not is_noise(old, new):
            self._on_change()

    def _judged(self, kind: str, check: Callable[[Any], list[Reason]]) -> Callable[[Any, Any], None]:
        """Look once at each version of an object's spec for what stops it or is to be said of it."""

        def changed(old: Any, new: Any) -> None:
            meta = (old if new is None else new).metadata
            key = "/".join(part for part in (kind, meta.namespace, meta.name) if part)
            same = old is not None and new is not None and old.metadata.generation == new.metadata.generation
            if not same or old.metadata.uid != new.metadata.uid:
                self._refused.pop(key, None)
                self._warnings.pop(key, None)
                self._refused.pop(f"settings/{meta.name}" if kind == "group" else "", None)
                if isinstance(new, NodeGroup) and (why := settings_refusal(new.spec.settings, False)) is not None:
                    self._refused[f"settings/{meta.name}"] = why
                if new is not None and (why := refusal(new)) is not None:
                    self._refused[key] = why
                if new is not None and (found := check(new)):
                    self._warnings[key] = found
            self._changed(old, new)

        return changed

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is None and old is not None:
            self.gone[old.metadata.name] = time.time()
        self._changed(old, new)


def _say_failure(error: ClusterError) -> None:
    _log.warning("watch_interrupted", code=error.code, error=str(error))
