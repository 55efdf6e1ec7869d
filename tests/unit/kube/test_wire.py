"""One hostile object costs itself only; every refusal becomes its own error with the server's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hostplane.api.meta import ApiStruct, ObjectMeta
from hostplane.errors import ClusterError, ConflictError, GoneError, NotFoundError, ThrottledError
from hostplane.kube import wire


class Thing(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta
    size: int = 0


DEEP = "[" * 5000 + "]" * 5000


def thing(name: str, version: str = "5", **more: Any) -> str:
    return json.dumps({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version}, **more})


def page(*items: str) -> bytes:
    return f'{{"metadata":{{"resourceVersion":"9","continue":"more"}},"items":[{",".join(items)}]}}'.encode()


def change(kind: str, item: str) -> bytes:
    return f'{{"type":"{kind}","object":{item}}}'.encode()


def deep(name: str) -> str:
    return thing(name)[:-1] + f',"trap":"}}],\\"","deep":{DEEP}}}'


@pytest.mark.parametrize("bad", [thing("bad", size="large"), deep("bad")])
def test_a_page_keeps_the_healthy_neighbours(bad: str) -> None:
    found = wire.decode_page(Thing, page(thing("a", size=1), bad, thing("b")), "things")
    assert [item.metadata.name for item in found.items] == ["a", "b"]
    assert [(each.key, each.resource_version) for each in found.undecodable] == [("ns/bad", "5")]
    assert found.undecodable[0].why
    assert (found.resource_version, found.next) == ("9", "more")


def test_an_object_without_a_readable_name_is_still_reported() -> None:
    found = wire.decode_page(Thing, page('{"metadata":7}', thing("a")), "things")
    assert [each.key for each in found.undecodable] == [""]
    assert len(found.items) == 1


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"items":[]}', page("1")[:-3], page(deep("x"))[:-3]])
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises(ClusterError) as caught:
        wire.decode_page(Thing, body, "things")
    assert caught.value.name == "AnswerUndecodable"


def test_a_list_may_have_null_items() -> None:
    assert wire.decode_page(Thing, b'{"metadata":{"resourceVersion":"1"},"items":null}', "things").items == []


def test_changes_carry_object_and_version() -> None:
    added = wire.decode_change(Thing, change("ADDED", thing("a", "6", size=3)), "things")
    assert added.object is not None
    assert (added.object.size, added.resource_version, added.gone) == (3, "6", False)
    assert wire.decode_change(Thing, change("DELETED", thing("a", "7")), "things").gone


def test_a_bookmark_is_a_version_and_nothing_else() -> None:
    bookmark = wire.decode_change(Thing, change("BOOKMARK", '{"metadata":{"resourceVersion":"12"}}'), "things")
    assert bookmark == wire.Change("12")


@pytest.mark.parametrize("kind", ["MODIFIED", "DELETED"])
@pytest.mark.parametrize("bad", [thing("bad", size="large"), deep("bad")])
def test_an_undecodable_change_still_moves_on(kind: str, bad: str) -> None:
    found = wire.decode_change(Thing, change(kind, bad), "things")
    assert found.object is None
    assert found.resource_version == "5"
    assert found.gone == (kind == "DELETED")
    assert found.undecodable is not None
    assert found.undecodable.key == "ns/bad"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ({"code": 410, "reason": "Expired", "message": "too old resource version"}, GoneError),
        ({"code": 429, "message": "slow", "details": {"retryAfterSeconds": 3}}, ThrottledError),
        ({"code": 500, "message": "etcd"}, ClusterError),
    ],
)
def test_an_error_event_is_raised_as_what_it_means(status: dict[str, Any], error: type[ClusterError]) -> None:
    with pytest.raises(error, match=str(status["message"])):
        wire.decode_change(Thing, change("ERROR", json.dumps({"kind": "Status", **status})), "things")


@pytest.mark.parametrize("line", [b"{", b"null", b'{"type":"ADDED"}', b'{"type":1,"object":{}}', b"[" * 5000])
def test_what_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(ClusterError):
        wire.decode_change(Thing, line, "things")


@pytest.mark.parametrize(
    ("status", "reason", "error", "name"),
    [
        (404, "NotFound", NotFoundError, "ObjectNotFound"),
        (409, "Conflict", ConflictError, "WriteConflict"),
        (409, "AlreadyExists", ConflictError, "ObjectExists"),
        (410, "Expired", GoneError, "VersionExpired"),
        (429, "TooManyRequests", ThrottledError, "ServerBusy"),
        (503, "ServiceUnavailable", ThrottledError, "ServerBusy"),
        (422, "Invalid", ClusterError, "RequestInvalid"),
        (403, "Forbidden", ClusterError, "RequestForbidden"),
        (500, "InternalError", ClusterError, "ServerFailed"),
    ],
)
def test_refusals_map_to_errors(status: int, reason: str, error: type[ClusterError], name: str) -> None:
    body = json.dumps({"kind": "Status", "reason": reason, "message": "the words", "code": status}).encode()
    refused = wire.refusal(status, {}, body)
    assert type(refused) is error
    assert refused.name == name
    assert "the words" in str(refused)


def test_a_blocked_eviction_names_its_budget() -> None:
    cause = {
        "reason": "DisruptionBudget",
        "message": "The disruption budget web needs 2 healthy pods and has 2 currently",
    }
    body = json.dumps({"code": 429, "message": "Cannot evict pod", "details": {"causes": [cause]}}).encode()
    refused = wire.refusal(429, {"retry-after": "10"}, body)
    assert isinstance(refused, ThrottledError)
    assert refused.name == "EvictionBlocked"
    assert "budget web needs 2" in str(refused)
    assert refused.retry_after == 10


def test_messages_and_waits_are_bounded() -> None:
    refused = wire.refusal(503, {"retry-after": "1e9"}, b"<html>" + b"x" * 10**6)
    assert isinstance(refused, ThrottledError)
    assert len(str(refused)) < 1200
    assert refused.retry_after == 300
    assert wire.refusal(429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"").name == "ServerBusy"
