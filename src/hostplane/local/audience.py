"""Watches a demo's cluster through the API and nothing else, and draws what it sees.

Four watches, no other request. Whoever asks for an upgrade creates its objects; the audience only says how it goes and
when it is over, and counts at every change of a Node how many of a group are away.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST, Host
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.api.rollout import ROLLOUT
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.demo_story import Away, Picture, Release, host_line, is_away, is_over
from hostplane.local.demo_view import View

__all__ = ["Audience"]

_TICK = 1.0


class Audience:
    """Of the Nodes in `groups` (node -> group), with the `budgets` of those groups; `started` is when the clock did.

    Run its `informers`; everything else is one coroutine at a time.
    """

    def __init__(self, session: Session, groups: Mapping[str, str], budgets: Mapping[str, int], started: float) -> None:
        self._groups, self._budgets, self._started = dict(groups), dict(budgets), started
        names = list(groups)
        self._order = sorted(names, key=lambda name: (groups[name], names.index(name)))
        self._changed = asyncio.Event()
        self._nodes = Informer(session, NODE, on_change=self._see)
        self._hosts = Informer(session, HOST, on_change=self._wake)
        self._rollouts = Informer(session, ROLLOUT, on_change=self._wake)
        self._ledgers = Informer(session, LEDGER, on_change=self._wake)
        self.informers: tuple[Informer[Any], ...] = (self._nodes, self._hosts, self._rollouts, self._ledgers)
        self.away = Away(self._budgets)

    async def synced(self) -> None:
        """Returns when everything that is there has been seen."""
        for informer in self.informers:
            await informer.synced()

    def count_from_now(self) -> None:
        """Forget who was away before: what came up late was not away because of an upgrade."""
        self.away = Away(self._budgets)
        for node in self.nodes():
            self._see(None, node)

    def nodes(self) -> list[Node]:
        """The Nodes that are there, by group and name."""
        found = self._nodes.items()
        return [found[name] for name in self._order if name in found]

    def hosts(self) -> dict[str, Host]:
        """The Hosts that are there."""
        found = self._hosts.items()
        return {name: found[name] for name in self._order if name in found}

    def progress(self, rollout: str) -> str:
        """How far the rollout is, in the operator's words."""
        found = self._rollouts.get(rollout)
        return found.status.summary if found and found.status.summary else "-"

    async def watch(self, view: View, rollout: str, new: Release, seconds: float) -> bool:
        """Show how `rollout` brings `new`, until nothing more will happen; False when that took over `seconds`."""
        return await self.until(
            lambda: is_over(self._rollouts.get(rollout), self._ledgers.get(LEDGER_NAME), self.nodes()),
            view,
            rollout,
            new,
            seconds,
        )

    async def until(self, holds: Callable[[], bool], view: View, rollout: str, new: Release, seconds: float) -> bool:
        """Show all that changes until `holds`; False when that took over `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    over = holds()
                    view.show(self._picture(rollout, new))
                    if over:
                        return True
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_TICK):
                            await self._changed.wait()
        except TimeoutError:
            return False

    def _picture(self, name: str, new: Release) -> Picture:
        rollout = self._rollouts.get(name)
        return Picture(
            rollout=name,
            phase=rollout.status.phase if rollout else "",
            seconds=time.monotonic() - self._started,
            hosts=[
                host_line(node, self._groups[node], self._hosts.get(node), self._nodes.get(node), new)
                for node in self._order
            ],
            groups=self.away.groups(),
            most_away=self.away.most,
        )

    def _wake(self, old: object, new: object) -> None:
        self._changed.set()

    def _see(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if node is not None and node.metadata.name in self._groups:
            self.away.see(self._groups[node.metadata.name], node.metadata.name, is_away(new))
        self._changed.set()
