"""The metrics page: what is on it, what leaves it, what never enters."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from hostplane.operator.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_a_group_that_is_gone_leaves_the_page() -> None:
    metrics = Metrics()

    metrics.set_hosts({("web", "Idle"): 3, ("db", "Failed"): 1})
    metrics.set_hosts({("web", "Idle"): 2})

    hosts = {key: value for key, value in samples(metrics).items() if key[0] == "hostplane_hosts"}
    assert hosts == {("hostplane_hosts", (("group", "web"), ("state", "Idle"))): 2.0}


def test_every_metric_an_alert_reads_is_on_the_page() -> None:
    metrics = Metrics()
    metrics.grants.labels("upgrade").inc()
    metrics.results.labels("Committed").inc()
    metrics.write_errors.labels("WriteConflict").inc()
    metrics.pass_seconds.observe(0.02)
    metrics.pass_errors.inc()
    metrics.leader.set(1)
    metrics.ledger_holders.set(4)
    metrics.oldest_waiting_seconds.set(60)
    metrics.drains_blocked.set(2)

    page = samples(metrics)

    assert page["hostplane_grants_total", (("operation", "upgrade"),)] == 1
    assert page["hostplane_operation_results_total", (("result", "Committed"),)] == 1
    assert page["hostplane_api_write_errors_total", (("reason", "WriteConflict"),)] == 1
    assert page["hostplane_pass_seconds_count", ()] == 1
    assert page["hostplane_pass_errors_total", ()] == 1
    assert page["hostplane_leader", ()] == 1
    assert page["hostplane_ledger_holders", ()] == 4
    assert page["hostplane_oldest_waiting_seconds", ()] == 60
    assert page["hostplane_drains_blocked", ()] == 2
    assert page["process_resident_memory_bytes", ()] > 0


def test_two_operators_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()

    one.leader.set(1)

    assert samples(other)["hostplane_leader", ()] == 0


def test_no_label_names_a_node() -> None:
    labels = {label for family in Metrics().registry.collect() for s in family.samples for label in s.labels}

    assert labels <= {"group", "state", "operation", "result", "reason", "le"}


def test_a_hostile_group_name_stays_one_label() -> None:
    metrics = Metrics()

    metrics.set_hosts({('a"} 1\nhostplane_leader 9', "Idle"): 1})

    assert samples(metrics)["hostplane_leader", ()] == 0
