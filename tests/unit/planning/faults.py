"""What may happen to a cluster while rollouts run: each fault by name, and how everything is mended in the end."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hostplane.api.host import HostSettings
from hostplane.api.meta import LabelSelector, ObjectMeta
from hostplane.api.nodegroup import TopologyCap
from hostplane.planning.snapshot import Options

from . import build
from .hosts import KubeOSNode, NativeHost
from .world import World

__all__ = ["FAULTS", "fleet", "ledger_is_lost", "lift", "mend"]

NEVER = "hostplane.dev/never"
NATIVE = {"hostplane.dev/agent": "native"}


def fleet(
    hosts: int,
    kubeos: int,
    *,
    limit: int | str = 1,
    per_zone: int | str | None = None,
    cluster: int | str = "100%",
    kubeos_limit: int = 1,
    mode: str = "parallel",
    steps: bool = False,
) -> World:
    """`hosts` of ours in the group web and `kubeos` of KubeOS's in the pool, all on v1 and wished onto v2."""
    options = Options(
        cluster_max_unavailable=cluster, kubeos_deadline=1800, config_deadline=900, ending_grace=300, return_grace=600
    )
    world = World(options)
    world.tick_seconds = 30
    for i in range(hosts):
        add_host(world, f"h{i:02}", "web")
    for i in range(kubeos):
        add_kubeos(world, f"k{i:02}")
    topology = [TopologyCap(key="zone", max_unavailable=per_zone)] if per_zone is not None else []
    world.groups["web"] = build.group("web", max_unavailable=limit, topology=topology)
    world.groups["db"] = build.group("db", max_unavailable=1)
    careful = [build.Step(nodes=1, soak_seconds=60), build.Step(nodes="50%")] if steps else []
    world.rollouts["up"] = build.rollout(groups=["web", "db"], trial_seconds=900, failure_threshold=1000, steps=careful)
    world.images.update({version: build.image(version) for version in ("v2", "v3")})
    world.oses["default/pool"] = build.os_object(maxunavailable=kubeos_limit, executionmode=mode)
    return world


def add_host(world: World, name: str, pool: str, incarnation: int = 0) -> None:
    labels = {"pool": pool, "zone": f"z{int(name[1:]) % 3}", **NATIVE}
    boot = f"{name}/0"
    world.nodes[name] = world.stamp(build.node(name, labels=labels, boot=boot, uid=f"uid-{name}-{incarnation}"))
    world.machines[name] = NativeHost(name)


def add_kubeos(world: World, name: str, incarnation: int = 0) -> None:
    boot = f"{name}/0"
    labels = {build.POOL: "pool"}
    world.nodes[name] = world.stamp(build.node(name, labels=labels, boot=boot, uid=f"uid-{name}-{incarnation}"))
    world.machines[name] = KubeOSNode(name)


def _name(world: World, target: int) -> str:
    names = sorted(world.machines)
    return names[target % len(names)]


def _label(world: World, name: str, key: str, value: str | None) -> None:
    """An administrator's label; what follows from it is not checked before the operator has seen it."""
    if name in world.nodes:
        checked, world.checked = world.checked, False
        world.label_node(name, {key: value})
        world.checked = checked


def kubelet_stops(world: World, target: int) -> None:
    machine = world.machines[_name(world, target)]
    machine.kubelet = not machine.kubelet


def proxy_stops(world: World, target: int) -> None:
    machine = world.machines[_name(world, target)]
    machine.proxy = not machine.proxy


def proxy_dies(world: World, target: int) -> None:
    machine = world.machines[_name(world, target)]
    if isinstance(machine, KubeOSNode):
        machine.crash_proxy()


def power_fails(world: World, target: int) -> None:
    world.machines[_name(world, target)].reboot(3 + target % 5)


def stays_down(world: World, target: int) -> None:
    world.machines[_name(world, target)].reboot(-1)


def slow_firmware(world: World, target: int) -> None:
    world.boot_ticks = 60 if target % 2 else 2


def admin_cordons(world: World, target: int) -> None:
    name = _name(world, target)
    if name in world.nodes:
        cordons = not world.nodes[name].spec.unschedulable
        world.edit_node(name, unschedulable=cordons)
        world.cordoned = world.cordoned | {name} if cordons else world.cordoned - {name}


def image_is_bad(world: World, target: int) -> None:
    machine = world.machines[_name(world, target)]
    bad = frozenset({"v2"})
    if isinstance(machine, NativeHost) and target % 2:
        machine.sick = bad
    elif isinstance(machine, NativeHost):
        machine.broken = bad
    elif isinstance(machine, KubeOSNode):
        machine.wrong = bad


def drain_sticks(world: World, target: int) -> None:
    world.stuck_drains ^= {_name(world, target)}


def pods_stay_away(world: World, target: int) -> None:
    world.words_withheld ^= {_name(world, target)}


def registry_fails(world: World, target: int) -> None:
    del target
    world.registry = not world.registry


def node_is_replaced(world: World, target: int) -> None:
    """A new machine under the old name; its Node is another one."""
    name = _name(world, target)
    world.nodes.pop(name, None)
    world.instances.pop(name, None)
    if target % 2:
        world.hosts.pop(name, None)
    if name.startswith("h"):
        add_host(world, name, "web", world.version)
    else:
        add_kubeos(world, name, world.version)


def node_is_deleted(world: World, target: int) -> None:
    name = _name(world, target)
    if len(world.machines) > 2:
        world.nodes.pop(name, None)
        del world.machines[name]


def host_is_deleted(world: World, target: int) -> None:
    """Somebody deletes the Host: its grant is gone, and so is what the agent might still be told."""
    world.hosts.pop(_name(world, target), None)


def says_never(world: World, target: int) -> None:
    name = _name(world, target)
    node = world.nodes.get(name)
    if node is not None:
        _label(world, name, NEVER, None if NEVER in node.metadata.labels else "")


def moves(world: World, target: int) -> None:
    """To another group, or out of every group; for KubeOS out of its pool, or back."""
    name = _name(world, target)
    if name.startswith("h"):
        _label(world, name, "pool", ["web", "db", None][target % 3])
    else:
        _label(world, name, build.POOL, ["pool", "elsewhere"][target % 2])


def changes_driver(world: World, target: int) -> None:
    """A KubeOS node is selected by a group instead of its OS object, or comes back."""
    name = _name(world, target)
    if name.startswith("k"):
        into_group = target % 2
        _label(world, name, "pool", "db" if into_group else None)
        _label(world, name, build.POOL, "other" if into_group else "pool")


def group_is_hidden(world: World, target: int) -> None:
    group = world.groups[["web", "db"][target % 2]]
    mode = "Hidden" if group.spec.mode == "Managed" else "Managed"
    world.bump("groups", group.metadata.name, mode=mode)


def groups_overlap(world: World, target: int) -> None:
    del target
    if world.groups.pop("all", None) is None:
        world.groups["all"] = build.group("all", selector=LabelSelector(match_labels={"zone": "z1"}))


def limit_changes(world: World, target: int) -> None:
    world.bump("groups", "web", max_unavailable=1 + target % 3)
    if "default/pool" in world.oses:
        world.bump("oses", "default/pool", maxunavailable=1 + target % 3)


def rollout_pauses(world: World, target: int) -> None:
    del target
    if "up" in world.rollouts:
        world.bump("rollouts", "up", paused=not world.rollouts["up"].spec.paused)


def rollout_is_deleted(world: World, target: int) -> None:
    del target
    world.rollouts.pop("up", None)


def image_changes(world: World, target: int) -> None:
    version = ["v2", "v3"][target % 2]
    if "up" in world.rollouts:
        world.bump("rollouts", "up", image=version)
    if "default/pool" in world.oses:
        world.bump("oses", "default/pool", osversion=version)


def settings_change(world: World, target: int) -> None:
    if "default/pool" in world.oses:
        world.bump("oses", "default/pool", sysconfigs=build.settings(f"s{target % 3}"))
    if "web" in world.groups:
        world.bump("groups", "web", settings=HostSettings(version=f"s{target % 3}"))


def os_is_deleted(world: World, target: int) -> None:
    del target
    world.oses.pop("default/pool", None)


def ledger_is_lost(world: World, target: int) -> None:
    """An etcd restored from before, or somebody's kubectl delete."""
    del target
    world.ledger = world.stamp(msgspec.structs.replace(build.ledger(), metadata=ObjectMeta(name="cluster")))
    world.exempt = frozenset(world.nodes)


FAULTS: tuple[Callable[[World, int], None], ...] = (
    kubelet_stops,
    proxy_stops,
    proxy_dies,
    power_fails,
    stays_down,
    slow_firmware,
    admin_cordons,
    image_is_bad,
    drain_sticks,
    pods_stay_away,
    registry_fails,
    node_is_replaced,
    node_is_deleted,
    host_is_deleted,
    says_never,
    moves,
    changes_driver,
    group_is_hidden,
    groups_overlap,
    limit_changes,
    rollout_pauses,
    rollout_is_deleted,
    image_changes,
    settings_change,
    os_is_deleted,
    ledger_is_lost,
)


def lift(world: World) -> None:
    """The administrator lifts the cordons that are theirs, of nodes that nobody works on."""
    for name in world.cordoned:
        node = world.nodes.get(name)
        if node is not None and node.spec.unschedulable and name not in world.ledger.spec.holders:
            world.edit_node(name, unschedulable=False)


def mend(world: World) -> None:
    """Everything comes back, everybody belongs somewhere, and the wish is v2 again, said anew."""
    world.stuck_drains = world.words_withheld = frozenset()
    world.registry, world.boot_ticks = True, 2
    world.groups.pop("all", None)
    for name, machine in world.machines.items():
        machine.kubelet = machine.proxy = True
        machine.down = 1 if machine.down else 0
        if isinstance(machine, NativeHost):
            machine.sick = machine.broken = frozenset()
        elif isinstance(machine, KubeOSNode):
            machine.wrong, machine.settings_fail = frozenset(), False
        _label(world, name, NEVER, None)
        native = name.startswith("h")
        _label(world, name, "pool", "web" if native else None)
        if not native:
            _label(world, name, build.POOL, "pool")
    for name in ("web", "db"):
        world.bump("groups", name, mode="Managed")
    world.rollouts = {}
    born = "2027-01-01T00:00:00Z"
    rollout = build.rollout(
        "again",
        born=born,
        groups=["web", "db"],
        trial_seconds=900,
        failure_threshold=1000,
        retry=sorted(world.machines),
    )
    world.rollouts["again"] = rollout
    generation = world.oses["default/pool"].metadata.generation if "default/pool" in world.oses else 50
    fresh = build.os_object(maxunavailable=1, generation=generation + 1)
    world.oses["default/pool"] = world.stamp(fresh)
