"""The agent's settings: one request at a time, its outcome on record, drift found and, where wished, put right.

Settings belong to a slot's /etc, so what is in force is asked anew when another slot runs: what holds there counts,
anything else is wished again by the cluster. What a setting means is decided in planner.py, whose word counts in
host.py.
"""

import logging
import os
import threading
from typing import Any, Dict, List, Optional

from hostplane.agent import machine
from hostplane.agent.core import Core
from hostplane.errors import HostError
from hostplane.rpc import messages

from . import carry
from .journal import Journal, Record
from .request import Request, request_digest

__all__ = ["Keeper"]

_log = logging.getLogger("hostplane.agent")


class Keeper(object):
    """The settings of one host; every method may be called from any thread, without `core.changed` held."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._one_at_a_time = threading.Lock()
        self._journal = Journal(core.host)

    @property
    def is_busy(self) -> bool:
        """Whether settings are being changed now."""
        return self._one_at_a_time.locked()

    def start(self) -> None:
        """Once, after the host knows its slot: go on with an interrupted request in a thread of its own."""
        threading.Thread(target=self._wake, name="settings", daemon=True).start()

    def _wake(self) -> None:
        core = self._core
        if core.host.is_vetoed:
            return
        with self._one_at_a_time:
            try:
                self._resume()
                with core.changed:
                    has_moved = core.state.settings_slot not in ("", core.active)
                if has_moved:
                    record = self._journal.record()
                    is_held = record is not None and not carry.drift(core.host, core.active, record, False)
                    self._note(record if is_held else None, "")
            except HostError as fault:
                _log.error("settings: %s", fault)

    def _resume(self) -> None:
        """Raises HostError for what was taken back, once it is on record."""
        core = self._core
        try:
            done = carry.resume(core.host, core.boot_id)
        except HostError as fault:
            with core.changed:
                core.set(core.state._replace(settings_error=str(fault)[:4000]))
            raise
        if done is not None:
            self._note(done, "")

    def _note(self, record: Optional[Record], error: str) -> None:
        """Put on record what is in force now, None for nothing that is known."""
        core = self._core
        with core.changed:
            state = core.state._replace(settings_error=error[:4000], settings_slot=core.active, settings_drift="")
            version, digest = (record.version, record.digest) if record is not None else ("", "")
            if record is not None and record.needs_reboot:
                state = state._replace(settings_reboot=record.boot_id)
            core.set(state._replace(settings_version=version, settings_digest=digest))

    def configure(self, seq: int, request: Request) -> Dict[str, Any]:
        """Apply `request` under the grant `seq`; what cannot be applied is in the report, not an error.

        Raises:
            HostError: StaleGrant, OperationUnderWay, VetoedByHost.
        """
        core = self._core
        core.host.refuse_if_vetoed()
        with self._one_at_a_time:
            with core.changed:
                core.set(machine.accept_configure(core.state, seq))
                digest = request_digest(request.version, request.configs)
                if core.state.settings_digest == digest and not core.state.settings_error:
                    return core.report()
            try:
                self._apply(request)
            except HostError as fault:
                with core.changed:
                    core.set(core.state._replace(settings_error=str(fault)[:4000]))
            with core.changed:
                return core.report()

    def preview(self, request: Request) -> Dict[str, Any]:
        """What `request` would change on this host; writes nothing. Raises HostError with what would refuse it."""
        with self._one_at_a_time:
            return carry.make_plan(self._core.host, self._core.active, request, self._journal.record()).outline()

    def configure_local(self, configs: Any) -> None:
        """Apply settings that carry no version (KubeOS's way). Raises HostError with the first that cannot be."""
        self._core.host.refuse_if_vetoed()
        with self._one_at_a_time:
            carry.apply(
                self._core.host, self._core.active, self._core.boot_id, Request(configs=configs, is_kubeos=True)
            )

    def _apply(self, request: Request) -> None:
        core = self._core
        try:
            self._resume()
        except HostError as fault:
            _log.error("settings before these: %s", fault)
        carry.apply(core.host, core.active, core.boot_id, request)
        self._note(self._journal.record(), "")

    def look(self) -> Dict[str, Any]:
        """Look for drift, put it right where the settings in force say so; gives the report. Raises HostError."""
        core = self._core
        with self._one_at_a_time:
            record = self._journal.record()
            found = carry.drift(core.host, core.active, record)
            with core.changed:  # what is on trial is judged as it is
                may_act = core.state.phase in messages.RESTING_PHASES and not core.host.is_vetoed
            if found and record is not None and record.enforce and may_act:
                _log.warning("settings put right: %s", "; ".join(found))
                try:
                    carry.apply(core.host, core.active, core.boot_id, record.request)
                    found = carry.drift(core.host, core.active, self._journal.record())
                except HostError as fault:
                    found = ([str(fault)[:300]] + found)[: carry.REPORTED]
            self._tell(found)
            with core.changed:
                return core.report()

    def undo(self) -> Dict[str, Any]:
        """At the console: take back what settings changed; gives the report. Raises HostError."""
        core = self._core
        core.host.refuse_if_vetoed()
        with self._one_at_a_time:
            carry.apply(core.host, core.active, core.boot_id, Request(undo=True))
            self._note(self._journal.record(), "")
            with core.changed:
                return core.report()

    def _tell(self, found: List[str]) -> None:
        """Report drift, and let a proxy that rests know that there is news."""
        core = self._core
        words = "\n".join(found[: carry.REPORTED])
        with core.changed:
            if core.state.settings_drift == words:
                return
            core.set(core.state._replace(settings_drift=words))
        path = core.host.path("run/hostplane/news")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write("%d\n" % core.revision)
        except OSError as fault:
            _log.warning("no news for the proxy: %s", fault)
