"""Two kinds of simulated nodes: one with our agent and proxy, one with KubeOS's.

The native one is made of the pure cores that run on real hosts: the agent's state machine, its boot state and loader
rule, and the proxy's decisions. The KubeOS one follows what its proxy was seen to do. Each `step` does at most one
write, so that whatever can be seen in between is seen.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec

from hostplane.agent import machine
from hostplane.agent.bootstate import BootState, other, plan_boot, render
from hostplane.agent.state import Image, Slot, State
from hostplane.api.host import FailedDigest, LastError, SettingsStatus, SlotStatus
from hostplane.api.host import Operation as ShownOperation
from hostplane.api.kubeos import CONFIGURING, UPGRADING, OSInstance, OSInstanceSpec, OSInstanceStatus
from hostplane.api.meta import ObjectMeta
from hostplane.errors import HostError
from hostplane.proxy.decide import AgentStatus, Call, next_call

from .build import digest

if TYPE_CHECKING:
    from .world import World

__all__ = ["KubeOSNode", "NativeHost", "SimulatedNode"]


class SimulatedNode:
    """A machine: power, boots, and a kubelet that tells the API server."""

    def __init__(self, name: str, version: str = "v1") -> None:
        self.name, self.version = name, version
        self.boots = 0
        self.down = 0
        """Ticks until it is up again; below 0: only a hand brings it up."""
        self.kubelet = True
        self.proxy = True

    def copy(self) -> SimulatedNode:
        return copy.copy(self)

    @property
    def boot_id(self) -> str:
        return f"{self.name}/{self.boots}"

    @property
    def is_up(self) -> bool:
        return self.down == 0

    def reboot(self, ticks: int) -> None:
        self.down = ticks

    def boot(self) -> None:
        self.boots += 1

    def step(self, world: World) -> None:
        if self.down:
            self.down -= self.down > 0
            if not self.down:
                self.boot()
        elif self.proxy:
            self.act(world)
        if self.name in world.nodes:
            self._tell(world)

    def act(self, world: World) -> None:
        raise NotImplementedError

    def _tell(self, world: World) -> None:
        """The kubelet's report, or the node controller's where there is no kubelet."""
        node = world.nodes[self.name]
        alive = self.is_up and self.kubelet
        if node.ready == alive and (not alive or node.status.node_info.boot_id == self.boot_id):
            return
        world.report_node(self.name, alive, self.boot_id if alive else "", self.version if alive else "")


class NativeHost(SimulatedNode):
    """A host with our agent: what it boots is decided by its own boot state."""

    def __init__(self, name: str, version: str = "v1") -> None:
        super().__init__(name, version)
        self.active = "A"
        first = Slot("Confirmed", digest(version), version, 10)
        self.state = State(slots={"A": first, "B": Slot()}, boot_id=self.boot_id)
        self.loader = BootState()
        self.broken: frozenset[str] = frozenset()
        """Versions that never come up."""
        self.sick: frozenset[str] = frozenset()
        """Versions whose checks fail."""
        self.pods = True
        """Its DaemonSet pods come back after a boot."""
        self.never = False
        self.settings_refused = False
        self._shown: tuple[State | None, AgentStatus] = (None, AgentStatus())

    def clock(self, world: World) -> float:
        return float(world.now)

    def status(self) -> AgentStatus:
        if self._shown[0] is not self.state:
            self._shown = (self.state, _status(self.state, self.active, self.boot_id, self.never))
        return self._shown[1]

    def boot(self) -> None:
        while True:
            super().boot()
            slot, block = plan_boot(render(self.loader), render(self.loader))
            assert slot is not None, "neither slot is proven nor has a try left"
            if block is not None:
                left = self.loader.left(slot) - 1
                self.loader = self.loader.with_slot(slot, False, left)._replace(seq=self.loader.seq)
            if self.state.slot(slot).version in self.broken and not self.loader.is_ok(slot):
                continue  # the watchdog resets it
            self.active, self.version = slot, self.state.slot(slot).version
            break
        self._woken = False

    def _wake(self, world: World) -> None:
        state, wish = machine.booted(self.state, self.loader, self.active, self.boot_id, "", self.clock(world))
        if wish is not None:
            self.loader = wish
        self.state = state
        if state.phase not in ("Rebooting", "Trial"):
            self.loader = machine.settled_boot(self.loader, self.active)
        self._woken = True

    _woken = True

    def act(self, world: World) -> None:
        if not self._woken:
            self._wake(world)
            return
        if self._work(world):
            return
        hosts = world.hosts
        mine = hosts.get(self.name)
        if mine is None:
            return
        status = self.status()
        if world.report_host(self.name, status):
            return
        call = next_call(mine.spec, status)
        if call is not None:
            try:
                self._call(call, world)
            except HostError as error:
                world.refused.append((self.name, error.name))

    def _work(self, world: World) -> bool:
        """What the agent does by itself; True where it did something."""
        state = self.state
        passive = other(self.active)
        match state.phase:
            case "Staging":
                assert state.image is not None
                if state.slot(passive).state != "Writing" or state.slot(passive).digest != state.image.digest:
                    self.state = machine.begin_writing(state, passive, state.image)
                elif world.registry:
                    self.state = machine.staged(state, passive, state.image, 10, "")
                else:
                    fault = machine.fault_of(
                        HostError("StagingFailed", detail="no registry"), "", state.image.digest, ""
                    )
                    self.state = machine.staging_failed(state, passive, fault)
            case "Trial" if state.trial is not None and not state.trial.checked:
                if self.version in self.sick:
                    self._give_up("CheckFailed", "HostFault")
                else:
                    self.state = state._replace(trial=state.trial._replace(checked=True))
            case "Trial" if state.trial is not None and state.trial.deadline <= self.clock(world):
                self._give_up("TrialDeadlinePassed", "NoVerdict")
            case "Rebooting":
                if world.report_host(self.name, self.status()):
                    return True
                if state.returning is None:
                    assert state.operation is not None
                    self.loader = machine.switched_boot(self.loader, state.operation.target, 3)
                elif self.loader.left(self.active):
                    self.loader = self.loader.with_slot(self.active, False, 0)
                self.reboot(world.boot_ticks)
            case _:
                return False
        return True

    def _give_up(self, name: str, kind: str) -> None:
        wanted = self.state.operation.digest if self.state.operation else ""
        fault = machine.fault_of(HostError(name, check="c", detail="d"), kind, wanted, "")
        self.state = machine.going_back(self.state, fault)

    def _call(self, call: Call, world: World) -> None:
        params, now = call.params, ""
        if self.never:
            raise HostError("NeverOnHost")
        match call.method:
            case "stage":
                image = params["image"]
                wanted = Image(**{k: image[k] for k in ("format", "ref", "digest", "size", "version", "attempt")})
                self.state = machine.accept_stage(self.state, self.active, wanted, False, False, now)
            case "switch":
                self.state = machine.accept_switch(
                    self.state,
                    self.active,
                    params["seq"],
                    params["operation"],
                    params["digest"],
                    params["trialSeconds"],
                    "native",
                    now,
                )
            case "confirm":
                if machine.accept_confirm(self.state, params["seq"]):
                    self.loader = self.loader.with_slot(self.active, True, 0)
                    self.state = machine.committed(self.state, self.active, now)
            case "release":
                self.state = machine.accept_release(self.state, params["seq"], now)
            case "configure":
                accepted = machine.accept_configure(self.state, params["seq"])
                if self.settings_refused:
                    self.state = accepted._replace(settings_error="refused")
                else:
                    self.state = accepted._replace(settings_version=params["settings"]["version"], settings_error="")
            case _:
                raise AssertionError(call.method)


def _status(state: State, active: str, boot_id: str, never: bool) -> AgentStatus:
    shown, error = state.operation, state.last_error
    return AgentStatus(
        schema="1.0",
        protocol=1,
        phase=state.phase,
        boot_id=boot_id,
        active_slot=active,
        slots={n: SlotStatus(state=s.state, digest=s.digest, version=s.version) for n, s in state.slots.items()},
        seq=state.seq,
        operation=ShownOperation(seq=shown.seq, operation=shown.operation, digest=shown.digest, outcome=shown.outcome)
        if shown
        else None,
        last_error=LastError(
            name=error.name,
            code=error.code,
            message=error.message,
            reason_class=error.reason_class,
            digest=error.digest,
        )
        if error
        else None,
        failed_digests=[FailedDigest(digest=f.digest, name=f.name, attempt=f.attempt) for f in state.failed],
        settings=SettingsStatus(version=state.settings_version, error=state.settings_error)
        if state.settings_version or state.settings_error
        else None,
        never=never,
    )


class KubeOSNode(SimulatedNode):
    """A node with KubeOS's proxy and agent, as its operator finds it."""

    def __init__(self, name: str, version: str = "v1") -> None:
        super().__init__(name, version)
        self.wrong: frozenset[str] = frozenset()
        """Versions that it comes back from: the reboot leads to the old one."""
        self.settings_fail = False
        self._task = ""
        self._refreshing = ""
        self._was_idle = False
        self._deaf: dict[str, str] = {}
        """OS objects that did not own the node when it looked, in the version it saw; it looks again at another one."""

    def boot(self) -> None:
        super().boot()
        self.crash_proxy()

    def crash_proxy(self) -> None:
        """The proxy starts anew and has forgotten what it was doing."""
        self._task = self._refreshing = ""
        self._deaf = {}

    def act(self, world: World) -> None:
        name = self.name
        node, mine = world.nodes.get(name), world.instances.get(name)
        if node is None:
            return
        if mine is None:
            meta = ObjectMeta(name=name, namespace="default")
            world.create("instances", name, OSInstance(metadata=meta, spec=OSInstanceSpec(nodestatus="idle")))
            return
        if self._refreshing:
            self._refresh(world)
            return
        owner = mine.spec.namespacedname
        os = world.oses.get(f"{owner.namespace}/{owner.name}") if owner else None
        if owner is not None:
            mine_key = f"{owner.namespace}/{owner.name}"
            others = {key: other.metadata.resource_version for key, other in world.oses.items() if key != mine_key}
            self._deaf = {**self._deaf, **others}
        if os is None or self._deaf.get(mine_key) == os.metadata.resource_version:
            self._task = ""
            return
        idle = mine.spec.nodestatus == "idle"
        labelled = UPGRADING in node.metadata.labels or CONFIGURING in node.metadata.labels
        wished, given, applied = (_v(s) for s in (os.spec.sysconfigs, mine.spec.sysconfigs, mine.status.sysconfigs))
        if self.version == os.spec.osversion:
            self._task = ""
            if not idle and wished != given:
                if mine.spec.nodestatus == "config":
                    self._refresh(world)
                else:
                    world.edit_instance(name, sysconfigs=os.spec.sysconfigs)
            elif labelled:
                if not idle and given != applied:
                    if not self.settings_fail:
                        world.edit_instance_status(name, OSInstanceStatus(sysconfigs=mine.spec.sysconfigs))
                else:
                    self._refresh(world)
            return
        if os.spec.opstype == "config":
            return
        if not idle and _v(os.spec.upgradeconfigs) != _v(mine.spec.upgradeconfigs):
            self._refresh(world)
        elif UPGRADING in node.metadata.labels:
            if idle:
                self._task = ""
                self._refresh(world)
            else:
                self._operate(world, os.spec.osversion)

    def _operate(self, world: World, version: str) -> None:
        if not self._task:
            self._task = "prepared"
        elif self._task == "prepared":
            world.edit_node(self.name, unschedulable=True)
            self._task = "cordoned"
        elif self._task == "cordoned":
            self._task = "drained"
        else:
            if version not in self.wrong:
                self.version = version
            self.reboot(world.boot_ticks)

    def _refresh(self, world: World) -> None:
        """Label, cordon, idle: three writes, one a step."""
        node, mine = world.nodes[self.name], world.instances[self.name]
        if self._refreshing == "":
            labels: dict[str, str | None] = (
                {UPGRADING: None} if UPGRADING in node.metadata.labels else {CONFIGURING: None}
            )
            world.label_node(self.name, labels)
            self._refreshing, self._was_idle = "uncordon", mine.spec.nodestatus == "idle"
            return
        if self._refreshing == "uncordon":
            self._refreshing = "idle"
            if node.spec.unschedulable:
                world.edit_node(self.name, unschedulable=False)
                return
        self._refreshing = ""
        owner = mine.spec.namespacedname
        os = world.oses.get(f"{owner.namespace}/{owner.name}") if owner else None
        if self._was_idle or os is None:  # as it was read at the beginning
            return
        if mine.spec.nodestatus == "config":
            other_wish = _v(os.spec.sysconfigs) != _v(mine.spec.sysconfigs)
        else:
            other_wish = _v(os.spec.upgradeconfigs) != _v(mine.spec.upgradeconfigs)
        if _v(mine.spec.sysconfigs) == _v(mine.status.sysconfigs) or other_wish:
            world.edit_instance(self.name, nodestatus="idle", namespacedname=None)


def _v(settings: Any) -> str:
    return settings.version if settings else ""


def replaced(subject: Any, **fields: Any) -> Any:
    """msgspec.structs.replace, short."""
    return msgspec.structs.replace(subject, **fields)
