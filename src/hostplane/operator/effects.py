"""One action of a plan, one coroutine that does it. Each is safe to repeat, safe to lose and fenced by the leadership.

Whatever a write answers goes through into the informer's copy, so the next pass sees it and does not ask again. A
conflict means that somebody wrote in between: nothing is done, and the next pass decides on what is there now.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import singledispatchmethod
from typing import Any

import msgspec
import structlog

from hostplane.api.core import NODE
from hostplane.api.host import HOST
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, UPGRADING
from hostplane.errors import ClusterError, ConflictError, NotFoundError
from hostplane.kube.lease import Leader
from hostplane.kube.session import Session
from hostplane.planning import actions, kubeos, native
from hostplane.planning.snapshot import DrainView, Word

from . import cordon, word
from .drain import DrainPhase, Drains
from .world import World

__all__ = ["Effects"]

_log = structlog.get_logger(__name__)
_ASK_AGAIN = 2.0
_LABEL_ATTEMPTS = 4
_REFUSED = "RequestInvalid"
"""An answer that will be the same however often one asks."""


class Effects:
    """Does what plans ask for; keeps the drains' and the words' state between passes."""

    def __init__(self, session: Session, world: World, leader: Leader, drains: Drains) -> None:
        self._session, self._world, self._leader, self._drains = session, world, leader, drains
        self._words: dict[str, tuple[Word, float]] = {}

    def drain_views(self) -> dict[str, DrainView]:
        """How every drain is, as the planner wants it."""
        views = {}
        for name in self._drains.nodes():
            state = self._drains.state(name)
            if state is not None:
                failed = state.phase is DrainPhase.FAILED
                done = state.phase is not DrainPhase.RUNNING
                why = state.reason if failed or not done else None
                views[name] = DrainView(seq=state.seq, done=done, reason=why)
        return views

    def words(self) -> dict[str, Word]:
        """What the cluster said of hosts on trial; a "not yet" is forgotten after a while and asked again."""
        now = time.monotonic()
        fresh = {n: (w, at) for n, (w, at) in self._words.items() if w.ok or now - at < _ASK_AGAIN}
        self._words = fresh
        return {name: answer for name, (answer, _) in fresh.items()}

    async def do(self, action: actions.Action) -> bool:
        """Do one action; False where it was refused or lost and will be decided anew."""
        try:
            self._leader.fence()
            await self._do(action)
        except (ConflictError, NotFoundError) as error:
            _log.debug("write_outdated", action=type(action).__name__, node=action.node, code=error.code)
            return False
        except ClusterError as error:
            _log.warning("write_refused", action=type(action).__name__, node=action.node, error=str(error))
            raise
        return True

    @singledispatchmethod
    async def _do(self, action: actions.Action) -> None:
        raise TypeError(f"no effect for {type(action).__name__}")

    # --- native hosts -----------------------------------------------------------------------------------------------

    @_do.register
    async def _(self, action: actions.CreateHost) -> None:
        owner = {"apiVersion": "v1", "kind": "Node", "name": action.node, "uid": action.node_uid}
        body = HOST.manifest(action.node, spec={"schemaVersion": "1.0", "nodeUid": action.node_uid})
        body["metadata"]["ownerReferences"] = [owner]
        self._world.hosts.put(await self._session.create(HOST, body))

    @_do.register
    async def _(self, action: actions.DeleteHost) -> None:
        await self._session.delete(HOST, action.node, uid=action.uid)

    @_do.register
    async def _(self, action: actions.SetImage) -> None:
        body = {
            "metadata": {"resourceVersion": action.base},
            "spec": {"image": {"attempt": action.image.attempt, **msgspec.to_builtins(action.image)}},
        }
        self._world.hosts.put(await self._session.patch(HOST, action.node, body))

    @_do.register
    async def _(self, action: actions.SetGrant) -> None:
        spec: dict[str, Any] = {"grant": _whole(action.grant)}
        if action.drop_image:
            spec["image"] = None
        if action.settings is not None:
            wished = action.settings
            spec["settings"] = {
                "version": wished.version,
                "configs": msgspec.to_builtins(wished.configs),
                "undo": wished.undo,
                "enforce": wished.enforce,
                "signatures": wished.signatures,
            }
        body = {"metadata": {"resourceVersion": action.base, "annotations": action.marks}, "spec": spec}
        try:
            self._world.hosts.put(await self._session.patch(HOST, action.node, body))
        except ClusterError as error:
            if error.name != _REFUSED or action.settings is None:
                raise
            body["spec"] = {"grant": _whole(native.refused(action.grant))}
            self._world.hosts.put(await self._session.patch(HOST, action.node, body))
            raise

    @_do.register
    async def _(self, action: actions.Cordon) -> None:
        fence = self._leader.fence
        await self._on_node(action.node, lambda node: cordon.cordon(self._session, node, action.seq, fence=fence))

    @_do.register
    async def _(self, action: actions.Uncordon) -> None:
        fence = self._leader.fence
        await self._on_node(action.node, lambda node: cordon.restore(self._session, node, fence=fence))

    async def _on_node(self, name: str, change: Callable[[Any], Awaitable[Any]]) -> None:
        node = self._world.nodes.get(name)
        if node is not None:
            changed = await change(node)
            if changed is not None:
                self._world.nodes.put(changed)

    @_do.register
    async def _(self, action: actions.StartDrain) -> None:
        host = self._world.hosts.get(action.node)
        if host is not None:
            self._world.hosts.put(await word.note(self._session, host, action.seq))
            self._drains.start(action.node, action.policy, action.seq, spent_seconds=action.spent_seconds)

    @_do.register
    async def _(self, action: actions.StopDrain) -> None:
        self._drains.cancel(action.node)
        self._words.pop(action.node, None)

    @_do.register
    async def _(self, action: actions.AskWord) -> None:
        host = self._world.hosts.get(action.node)
        if host is not None and action.node not in self.words():
            self._words[action.node] = (await word.ask(self._session, host, action.seq), time.monotonic())

    # --- KubeOS nodes -----------------------------------------------------------------------------------------------

    @_do.register
    async def _(self, action: actions.Assign) -> None:
        try:
            await self._patch_instance(action.node, action.namespace, action.body)
        except ClusterError as error:
            if error.name == _REFUSED:
                await self._patch_instance(action.node, action.namespace, kubeos.refused(action))
            raise
        await self._patch_node(action.node, action.node_base, {action.label: ""}, attempts=_LABEL_ATTEMPTS)

    @_do.register
    async def _(self, action: actions.LabelNode) -> None:
        await self._patch_node(action.node, action.base, action.labels)

    @_do.register
    async def _(self, action: actions.EndOperation) -> None:
        await self._patch_instance(action.node, action.namespace, action.body)

    @_do.register
    async def _(self, action: actions.Reclaim) -> None:
        # The node first: once the OSInstance is idle without an owner, nothing would remember what is left to undo.
        if self._world.nodes.get(action.node) is not None:
            labels: dict[str, str | None] = {UPGRADING: None, CONFIGURING: None}
            await self._patch_node(action.node, action.node_base, labels, uncordon=action.uncordon)
        await self._patch_instance(action.node, action.namespace, action.body)

    @_do.register
    async def _(self, action: actions.DeleteInstance) -> None:
        await self._session.delete(OSINSTANCE, action.name, action.namespace, uid=action.uid)

    @_do.register
    async def _(self, action: actions.NudgeOS) -> None:
        namespace, _, name = action.node.partition("/")
        body = {"metadata": {"annotations": {kubeos.NUDGE: action.token}}}
        self._world.oses.put(await self._session.patch(OS, name, body, namespace))

    async def _patch_instance(self, node: str, namespace: str, body: dict[str, Any]) -> None:
        self._leader.fence()
        self._world.instances.put(await self._session.patch(OSINSTANCE, node, body, namespace))

    async def _patch_node(
        self, name: str, base: str, labels: dict[str, str | None], *, uncordon: bool = False, attempts: int = 1
    ) -> None:
        """Label a Node as it was at `base`, so that a write that was held up meanwhile undoes nothing.

        More `attempts` go on from a fresh read: a kubelet writes its Node too, and until the label is there the node
        holds budget for nothing.
        """
        body: dict[str, Any] = {"metadata": {"labels": labels}}
        if uncordon:
            body["spec"] = {"unschedulable": False}
        while True:
            self._leader.fence()
            if base:
                body["metadata"]["resourceVersion"] = base
            try:
                self._world.nodes.put(await self._session.patch(NODE, name, body))
                return
            except ConflictError:
                attempts -= 1
                if attempts <= 0:
                    raise
            base = (await self._session.get(NODE, name)).metadata.resource_version


def _whole(grant: Any) -> dict[str, Any]:
    """Every field of a grant, also those at their default: a merge patch leaves what it does not name."""
    return {
        "seq": grant.seq,
        "operation": grant.operation,
        "digest": grant.digest,
        "stage": grant.stage,
        "trialSeconds": grant.trial_seconds,
        "rollout": grant.rollout,
        "at": grant.at,
        "verdict": grant.verdict,
        "why": grant.why,
    }
