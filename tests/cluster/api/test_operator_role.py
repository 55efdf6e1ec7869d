"""The operator's role: everything it does is allowed, and nothing that it has no need for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostplane.local.controlplane import ControlPlane

_RBAC = Path(__file__).parents[3] / "deploy" / "rbac"
_NEEDS = """
    get,list,watch,patch nodes
    get,list pods
    create pods/eviction
    list poddisruptionbudgets.policy
    get,list daemonsets.apps
    get,list,watch osimages.hostplane.dev
    get,list,watch nodegroups.hostplane.dev
    get,list,watch rollouts.hostplane.dev
    patch osimages/status.hostplane.dev
    patch nodegroups/status.hostplane.dev
    patch rollouts/status.hostplane.dev
    get,list,watch,create,patch,delete hosts.hostplane.dev
    get,list,watch,create,patch ledgers.hostplane.dev
    get,list,watch,patch os.upgrade.openeuler.org
    patch os/status.upgrade.openeuler.org
    get,list,watch,patch,delete osinstances.upgrade.openeuler.org
    create,patch events
    create,patch events.events.k8s.io
    get,create,patch,update leases.coordination.k8s.io
"""
_NEVER = """
    get,list,watch secrets
    get,list configmaps
    create,delete,patch,update pods
    create pods/exec
    create,get nodes/proxy
    delete,create nodes
    patch,update nodes/status
    patch,update hosts/status.hostplane.dev
    patch,create,delete osimages.hostplane.dev
    patch,create,delete nodegroups.hostplane.dev
    patch,create,delete rollouts.hostplane.dev
    delete ledgers.hostplane.dev
    create,delete os.upgrade.openeuler.org
    patch,update osinstances/status.upgrade.openeuler.org
    create serviceaccounts/token
    impersonate users
    patch,bind,escalate clusterroles.rbac.authorization.k8s.io
    patch,delete validatingadmissionpolicies.admissionregistration.k8s.io
    patch,delete customresourcedefinitions.apiextensions.k8s.io
    patch deployments.apps
"""


@pytest.fixture(scope="module")
def roles(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the operator's account and role."""
    control_plane.kubectl("apply", f"--filename={_RBAC / 'namespace.yaml'}", f"--filename={_RBAC / 'operator.yaml'}")
    yield control_plane
    control_plane.kubectl("delete", "--ignore-not-found", f"--filename={_RBAC / 'operator.yaml'}")


@pytest.mark.parametrize("line", [line.strip() for line in _NEEDS.strip().splitlines()])
def test_the_operator_may(roles: ControlPlane, line: str) -> None:
    assert [verb for verb, allowed in _answers(roles, line) if not allowed] == []


@pytest.mark.parametrize("line", [line.strip() for line in _NEVER.strip().splitlines()])
def test_the_operator_may_not(roles: ControlPlane, line: str) -> None:
    assert [verb for verb, allowed in _answers(roles, line) if allowed] == []


def _answers(plane: ControlPlane, line: str) -> Iterator[tuple[str, bool]]:
    verbs, _, what = line.partition(" ")
    resource, _, group = what.partition(".")
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": "hostplane-system", "group": group, "resource": resource, "subresource": subresource}
    for verb in verbs.split(","):
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": "system:serviceaccount:hostplane-system:hostplane-operator",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {**attributes, "verb": verb},
            },
        }
        answer = plane.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        yield verb, answer["status"]["allowed"]
