"""KubeOS's socket: its four methods, byte-compatible, on the same machine as the native ones.

One request per connection, without a line feed; one at a time, the others are told so. What KubeOS never checked is
checked: nothing is switched to that was not prepared, and the boot after a switch is a trial that the host's own checks
decide, because KubeOS's operator has no word for it. Its containerd and docker images come straight from the registry.
"""

import socket
import threading
from typing import Any, Dict

from hostplane.errors import HostError, HostplaneError
from hostplane.rpc import framing, messages

from .host import Host
from .state import Image

__all__ = ["KubeosSocket"]

_REQUEST_SECONDS = 10.0
_TRIAL_SECONDS = 7200
_TEXTS = ("version", "check_sum", "image_type", "container_image", "image_url")
_CERTS = ("ca_cert", "client_cert", "client_key")


class KubeosSocket(object):
    """Serves KubeOS's proxies."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._one_at_a_time = threading.Lock()
        self._methods = {
            "prepare_upgrade": self._prepare,
            "upgrade": self._upgrade,
            "rollback": self._rollback,
            "configure": self._configure,
        }

    def serve(self, sock: socket.socket) -> None:
        """One connection: one request, one answer."""
        reader = framing.ObjectReader(sock, messages.REQUEST_LIMIT, _REQUEST_SECONDS)
        ident: messages.Id = None
        try:
            raw = reader.read()
            if raw is None:
                return
            request = messages.parse_request(raw)
            ident = request.id
            act = self._methods.get(request.method)
            if act is None:
                self._fail(sock, ident, messages.METHOD_NOT_FOUND, "Method not found")
                return
            if not self._one_at_a_time.acquire(False):
                self._fail(sock, ident, -1, "os-agent is processing another request")
                return
            with self._host:
                try:
                    answer = messages.result_answer(ident, {"status": act(request.params)})
                finally:  # before the answer is out, or the caller's next request could find us busy
                    self._one_at_a_time.release()
                framing.send(sock, answer, _REQUEST_SECONDS)
        except HostplaneError as fault:
            number = {"RequestMalformed": messages.PARSE_ERROR, "ParameterInvalid": messages.INVALID_PARAMS}
            self._fail(sock, ident, number.get(fault.name, -1), str(fault))
            if fault.name == "RequestTooLarge":
                framing.discard(sock, 2.0)

    def _fail(self, sock: socket.socket, ident: messages.Id, number: int, words: str) -> None:
        error = {"code": number, "message": words}
        answer = messages.dump({"jsonrpc": "2.0", "error": error, "id": ident}) + b"\n"
        framing.send(sock, answer, _REQUEST_SECONDS)

    def _prepare(self, params: Any) -> str:
        given = _only(params)
        for name in _TEXTS:
            _typed(given, name, str)
        certs = _typed(given, "certs", dict)
        for name in _CERTS:
            _typed(certs, name, str)
        flag_safe, mtls = _typed(given, "flag_safe", bool), _typed(given, "mtls", bool)
        digest = given["check_sum"].lower()
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise HostError("ParameterInvalid", parameter="check_sum", detail="it must be 64 hexadecimal digits")
        image = Image(format="osTar", digest="sha256:" + digest, version=given["version"][:256])
        if given["image_type"] == "disk":
            image = _on_web(image, given["image_url"], flag_safe, mtls, certs)
        elif given["image_type"] in ("containerd", "docker"):
            image = image._replace(ref="oci://" + _container_image(given["container_image"]))
        else:
            raise HostError("KubeosImageTypeUnsupported", type=given["image_type"][:32])
        self._host.stage(image)
        self._host.await_staged(image.digest)
        return "UpgradeReady"

    def _upgrade(self, params: Any) -> str:
        self._host.switch_local(messages.UPGRADE, _TRIAL_SECONDS)
        return "Upgraded"

    def _rollback(self, params: Any) -> str:
        self._host.switch_local(messages.ROLLBACK, _TRIAL_SECONDS)
        return "Rollbacked"

    def _configure(self, params: Any) -> str:
        configs = []
        for config in _typed(_only(params), "configs", list):
            contents = []
            for key, item in _typed(config, "contents", dict).items():
                contents.append((key, item.get("value"), item.get("operation") or "") if isinstance(item, dict) else ())
            if () in contents:
                raise HostError("ParameterInvalid", parameter="contents", detail="each key needs an object")
            configs.append((_typed(config, "model", str), _typed(config, "config_path", str), contents))
        self._host.configure_local(configs)
        return "Configured"


def _on_web(image: Image, url: str, flag_safe: bool, mtls: bool, certs: Dict[str, str]) -> Image:
    """A tar at `url`; an authority is needed for https, and flagSafe for everything else."""
    if len(url) > 2048:
        raise HostError("ParameterInvalid", parameter="image_url", detail="it has more than 2048 characters")
    if url[:8].lower() != "https://":
        return image._replace(ref=url, plain_http=flag_safe)
    if not certs["ca_cert"]:
        raise HostError("CertificateRefused", detail="an https image needs cacert")
    image = image._replace(ref=url, plain_http=flag_safe, ca=certs["ca_cert"])
    if not mtls:
        return image
    if not certs["client_cert"] or not certs["client_key"]:
        raise HostError("CertificateRefused", detail="mtls needs both clientcert and clientkey")
    return image._replace(cert=certs["client_cert"], key=certs["client_key"])


def _container_image(name: str) -> str:
    """A name as KubeOS takes it: host[:port]/path with a tag or a digest, not both."""
    last = name.rpartition("/")[2]
    if not name or len(name) > 1024 or "://" in name or ("@" in last and ":" in last.partition("@")[0]):
        detail = "host[:port]/path with a tag or a sha256 digest was expected, and not both"
        raise HostError("ParameterInvalid", parameter="container_image", detail=detail)
    return name


def _only(params: Any) -> Dict[str, Any]:
    """The one object KubeOS sends as parameters."""
    if not isinstance(params, list) or len(params) != 1:
        raise HostError("ParameterInvalid", parameter="params", detail="a list with one object was expected")
    return _object(params[0])


def _object(value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise HostError("ParameterInvalid", parameter="params", detail="an object was expected")
    return value


def _typed(given: Any, name: str, kind: type) -> Any:
    value = _object(given).get(name)
    if not isinstance(value, kind):
        raise HostError("ParameterInvalid", parameter=name, detail="it is missing or of another type")
    return value
