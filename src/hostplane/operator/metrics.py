"""What the operator tells Prometheus; each metric is here because the alert or dashboard named with it reads it.

No label ever holds a node's name: 10,000 hosts must not become 10,000 series. Nothing is global; every Metrics has a
registry of its own, so that two operators in one process (tests) do not share a counter.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["Metrics"]

_PASS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The operator's metrics. Attributes are prometheus_client objects; counts by label are set through methods."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # dashboard "Operator": memory, CPU; alert HostplaneOperatorRestarts

        # Dashboard "Fleet": how far each group is. Alert HostplaneHostsFailed: state Failed or Returned above 0.
        self._hosts = Gauge("hostplane_hosts", "Hosts by group and state.", ["group", "state"], registry=registry)
        self._hosts_seen: set[tuple[str, str]] = set()
        # Alert HostplaneLedgerFull: near the 2,000 it may hold. Dashboard "Fleet": budget in use.
        self.ledger_holders = Gauge(
            "hostplane_ledger_holders", "Nodes that may be unavailable because of Hostplane.", registry=registry
        )
        # Dashboard "Fleet": hosts begun per hour.
        self.grants = Counter("hostplane_grants", "Grants given, by operation.", ["operation"], registry=registry)
        # Alert HostplaneReturnsRising: the share of results other than Committed.
        self.results = Counter(
            "hostplane_operation_results", "Operations ended on a host, by result.", ["result"], registry=registry
        )
        # Dashboard "Operator": time to decide. Alert HostplanePassSlow.
        self.pass_seconds = Histogram(
            "hostplane_pass_seconds", "Seconds of one planning pass.", buckets=_PASS_SECONDS, registry=registry
        )
        # Alert HostplanePassFailing: any increase over 10 minutes.
        self.pass_errors = Counter("hostplane_pass_errors", "Passes that ended with an error.", registry=registry)
        # Alert HostplaneWritesFailing: a rate that lasts; `reason` is a name of the catalogue.
        self.write_errors = Counter(
            "hostplane_api_write_errors",
            "Writes the API server did not take, by reason.",
            ["reason"],
            registry=registry,
        )
        # Alert HostplaneNoLeader: the sum over replicas is not 1.
        self.leader = Gauge("hostplane_leader", "1 while this replica leads.", registry=registry)
        # Alert HostplaneStuck: a host waits for its turn for longer than a day although its group's window is open.
        self.oldest_waiting_seconds = Gauge(
            "hostplane_oldest_waiting_seconds", "How long the longest waiting host waits.", registry=registry
        )
        # Alert HostplaneDrainBlocked: above 0 for longer than drains are expected to wait for a budget.
        self.drains_blocked = Gauge(
            "hostplane_drains_blocked", "Drains that wait for a PodDisruptionBudget.", registry=registry
        )

    def set_hosts(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Replaces the counts by (group, state); what is missing now leaves the page, so a deleted group does too."""
        for gone in self._hosts_seen - counts.keys():
            self._hosts.remove(*gone)
        for (group, state), count in counts.items():
            self._hosts.labels(group, state).set(count)
        self._hosts_seen = set(counts)

    def render(self) -> bytes:
        """The page Prometheus scrapes, in the text format that `content_type` names."""
        return generate_latest(self.registry)
