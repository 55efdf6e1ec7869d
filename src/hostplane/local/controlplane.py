"""A real etcd and a real kube-apiserver (and controller-manager on demand) in one directory, for one user.

Loopback and a directory of mode 0700 are its walls: etcd listens on a unix socket in there, the API server on
127.0.0.1 with the certificate it makes for itself, and the only credential is a random token in `kubeconfig` (0600).
RBAC, admission policies and bound service-account tokens work as in production. Virtual machines on this one reach
loopback as 10.0.2.2; where `guests` names some, the certificate is good for that too and each one's kubelet has a token
of its own, with a kubelet's rights over its own Node. With `certificate_seconds` kubelets may also join and renew by
themselves: bootstrap tokens are known, and the cluster signs. Data survive a stop and a start; they are not meant to
survive a power cut (etcd does not fsync). The processes outlive the one that called start().
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import yaml

from hostplane.errors import LocalError, NotFoundError, ThrottledError
from hostplane.local import processes, state
from hostplane.local.apiserver import ApiServer
from hostplane.local.binaries import Say, locate, tell
from hostplane.local.kubeconfig import write_kubeconfig, write_private

__all__ = ["GUESTS_GATEWAY", "ControlPlane", "free_port"]

GUESTS_GATEWAY = "10.0.2.2"
"""This machine, as a virtual machine with a user-mode network reaches its loopback."""

_SOCKET_PATH_MAX = 107
_READY_SECONDS = 90.0
_POLL_SECONDS = 0.1
_PATHS = {
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "Namespace": ("/api/v1", "namespaces"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "ValidatingAdmissionPolicy": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
    "ValidatingAdmissionPolicyBinding": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"),
}
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CONTROLLERS = (  # what budgets, garbage collection and DaemonSets need; none that would touch a Node
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "daemonset-controller",
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
)
_SIGNERS = ("certificatesigningrequest-signing-controller", "certificatesigningrequest-approving-controller")
_CERTIFICATE = (
    *("-sha256", "-days", "365", "-subj", "/CN=hostplane-local", "-addext"),
    f"subjectAltName=IP:127.0.0.1,IP:{GUESTS_GATEWAY},DNS:localhost,DNS:kubernetes.default.svc",
)
_GUESTS_CONTROLLERS = ("node-lifecycle-controller",)  # real kubelets: a Node whose heartbeat stops is not Ready


class ControlPlane:
    """One control plane in `directory`; `port` 0 takes a free one and keeps it for later starts.

    `guests` are names of Nodes whose kubelets run in virtual machines of this machine; `certificate_seconds` is how
    long a client certificate lives that the cluster signs; 0: it signs none.
    """

    def __init__(
        self,
        directory: Path | str,
        port: int = 0,
        *,
        controller_manager: bool = False,
        guests: Sequence[str] = (),
        certificate_seconds: int = 0,
        say: Say = tell,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.kubeconfig = self.directory / "kubeconfig"
        self.ca = self.directory / "pki" / "apiserver.crt"
        self.token_file = self.directory / "pki" / "tokens.csv"
        self.url = ""
        self._port = port
        self._controller_manager = controller_manager or certificate_seconds > 0
        self._certificate_seconds = certificate_seconds
        self._guests = tuple(guests)
        self._say = say
        self._programs: dict[str, Path] = {}

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self.token_file.read_text("ascii").partition(",")[0]

    @property
    def guests_url(self) -> str:
        """Where a virtual machine reaches the server."""
        return self.url.replace("127.0.0.1", GUESTS_GATEWAY)

    def kubelet_token(self, node: str) -> str:
        """The bearer token of the kubelet of one of the `guests`."""
        tokens = (line.split(",") for line in self.token_file.read_text("ascii").splitlines())
        return next(token for token, _, name, *_ in tokens if name == node)

    @property
    def api(self) -> ApiServer:
        """A plain way to ask this server."""
        return ApiServer(url=self.url, token=self.token, ca=str(self.ca))

    def start(self, seconds: float = _READY_SECONDS) -> None:
        """Starts what does not run and returns when the API server is ready; what it started it ends if that fails.

        Raises:
            LocalError: a program is missing, the port is taken, it runs already, or it was not ready in `seconds`.
        """
        self._programs = locate(self._names(), self._say)
        state.prepare_directory(self.directory)
        known = state.load(self.directory)
        running = [process.name for process in known.processes if processes.is_alive(process)]
        if running:
            raise LocalError("LocalClusterRuns", directory=self.directory, processes=", ".join(running))
        self._choose_port(known)
        self._make_secrets()
        deadline = time.monotonic() + seconds
        try:
            self._spawn("etcd", self._etcd_command())
            self.start_apiserver(deadline - time.monotonic())
            if self._controller_manager:
                self._spawn("kube-controller-manager", self._controller_manager_command())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> list[str]:
        """Ends the processes of this control plane, the API server first; the names of those that ran."""
        known = {process.name: process for process in state.load(self.directory).processes}
        order = ("kube-controller-manager", "kube-apiserver", "etcd")
        ran = processes.end([known[name] for name in order if name in known], grace=3.0)
        state.forget(self.directory, set(order))
        return [process.name for process in ran]

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """Ends only the API server, as an outage would: orderly, or at once with `kill`."""
        known = [process for process in state.load(self.directory).processes if process.name == "kube-apiserver"]
        processes.end(known, grace=0.0 if kill else 3.0, signal_number=9 if kill else 15)

    def start_apiserver(self, seconds: float = _READY_SECONDS) -> None:
        """Starts the API server over the running etcd and waits until it is ready, at most `seconds`."""
        process = self._spawn("kube-apiserver", self._apiserver_command())
        deadline = time.monotonic() + seconds
        self._write_kubeconfig()
        while not self.api.is_ready():
            dead = processes.ended(state.load(self.directory).processes)
            if dead:
                raise LocalError("ProgramEnded", program=dead.name, tail=processes.last_lines(dead), log=dead.log)
            if time.monotonic() > deadline:
                raise LocalError(
                    "NotReadyInTime", program="kube-apiserver", log=process.log, tail=processes.last_lines(process)
                )
            processes.wait(process, _POLL_SECONDS)

    def restart(self, *, kill: bool = False) -> None:
        """Ends the API server and starts it again on the same port; returns when it is ready."""
        self.stop_apiserver(kill=kill)
        self.start_apiserver()

    restart_apiserver = restart

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        """What kubectl prints, as the administrator.

        Raises:
            LocalError: it ended with an error; the text carries what it said.
        """
        program = locate(["kubectl"], self._say)["kubectl"]
        command = [str(program), f"--kubeconfig={self.kubeconfig}", *arguments]
        environment = {**os.environ, "HOME": str(self.directory), "KUBECACHEDIR": str(self.directory / "kubectl-cache")}
        answer = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=environment
        )
        if answer.returncode != 0:
            raise LocalError("KubectlFailed", command=" ".join(arguments), error=answer.stderr.strip()[-2000:])
        return answer.stdout

    def apply(self, texts: Iterable[str], seconds: float = 30.0) -> None:
        """Applies manifests given as YAML, server-side, and waits until every kind among them is served.

        Only the kinds of `deploy/` are known; anything else is kubectl's business.

        Raises:
            LocalError: a kind is not served within `seconds`.
        """
        for text in texts:
            for body in yaml.safe_load_all(text):
                if body:
                    root, plural = _PATHS[body["kind"]]
                    namespace = body["metadata"].get("namespace")
                    collection = f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
                    path = f"{collection}/{body['metadata']['name']}?fieldManager=hostplane&force=true"
                    self.api.request("PATCH", path, body, kind="apply-patch+yaml")
        self.await_crds(seconds)

    install_crds = apply

    def await_crds(self, seconds: float = 30.0) -> None:
        """Waits until the server serves every CustomResourceDefinition it has, also after a restart.

        Raises:
            LocalError: it did not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self._crds_served():
            if time.monotonic() > deadline:
                raise LocalError("CrdsNotEstablished", seconds=seconds)
            time.sleep(0.05)  # the server offers nothing to wait on that is cheaper than asking again

    def _crds_served(self) -> bool:
        for crd in self.api.request("GET", _CRDS)["items"]:
            conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions") or []}
            if conditions.get("Established") != "True":
                return False
            for version in crd["spec"]["versions"]:
                path = f"/apis/{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['plural']}?limit=1"
                try:
                    self.api.request("GET", path)
                except (NotFoundError, ThrottledError):
                    return False
        return True

    def _names(self) -> list[str]:
        return ["etcd", "kube-apiserver", *(["kube-controller-manager"] if self._controller_manager else [])]

    def _choose_port(self, known: state.State) -> None:
        port = self._port or int(known.url.rpartition(":")[2] or 0)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if self._port:
                    raise LocalError("PortTaken", port=port, error=error.strerror) from error
                probe.bind(("127.0.0.1", 0))  # the kept one is taken meanwhile
            self.url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        state.save(
            self.directory,
            msgspec.structs.replace(known, url=self.url, controller_manager=self._controller_manager, processes=[]),
        )

    def _make_secrets(self) -> None:
        if len(str(self._etcd_socket)) > _SOCKET_PATH_MAX:
            raise LocalError("PathTooLong", path=self._etcd_socket, limit=_SOCKET_PATH_MAX)
        with contextlib.suppress(FileNotFoundError):
            self._etcd_socket.unlink()
        pki = self.directory / "pki"
        pki.mkdir(mode=0o700, exist_ok=True)
        (self.directory / "logs").mkdir(mode=0o700, exist_ok=True)
        if not self.token_file.exists():
            accounts = ['admin,admin,"system:masters"']
            accounts += [f'system:node:{node},{node},"system:nodes"' for node in self._guests]
            write_private(self.token_file, "".join(f"{secrets.token_urlsafe(32)},{rest}\n" for rest in accounts))
        key = pki / "service-account.key"
        if not key.exists():
            write_private(key, _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
        if self._guests and not self.ca.exists():  # else the server makes one, for loopback alone
            server_key = self.ca.with_suffix(".key")
            write_private(server_key, _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
            self.ca.write_text(_openssl("req", "-x509", "-new", "-key", str(server_key), *_CERTIFICATE), "ascii")
        signer = self._signer
        if self._certificate_seconds and not signer.exists():
            write_private(signer.with_suffix(".key"), _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
            words = ("-sha256", "-days", "365", "-subj", "/CN=hostplane-local-clients")
            made = _openssl("req", "-x509", "-new", "-key", str(signer.with_suffix(".key")), *words)
            signer.write_text(made, "ascii")

    def _write_kubeconfig(self) -> None:
        write_kubeconfig(self.kubeconfig, url=self.url, ca=self.ca, token=self.token, user="admin")

    @property
    def _etcd_socket(self) -> Path:
        return self.directory / "etcd.sock"

    @property
    def _signer(self) -> Path:
        """The certificate of the authority for clients, beside its key."""
        return self.directory / "pki" / "clients.crt"

    def _spawn(self, name: str, command: list[str]) -> processes.Process:
        process = processes.spawn(name, command, self.directory / "logs" / f"{name}.log")
        state.remember(self.directory, process)
        return process

    def _etcd_command(self) -> list[str]:
        nowhere = "http://127.0.0.1:2380"  # advertised only: one member, and its peers' socket is a file too
        return [
            str(self._programs["etcd"]),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls=unix://{self._etcd_socket}",
            "--advertise-client-urls=http://127.0.0.1:2379",
            f"--listen-peer-urls=unix://{self._etcd_socket.with_name('peer.sock')}",
            f"--initial-advertise-peer-urls={nowhere}",
            f"--initial-cluster=default={nowhere}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_command(self) -> list[str]:
        pki = self.directory / "pki"
        key = pki / "service-account.key"
        command = [
            str(self._programs["kube-apiserver"] if self._programs else locate(["kube-apiserver"])["kube-apiserver"]),
            f"--etcd-servers=unix://{self._etcd_socket}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.url.rpartition(':')[2]}",
            f"--cert-dir={pki}",
            f"--token-auth-file={self.token_file}",
            f"--authorization-mode={'Node,RBAC' if self._guests else 'RBAC'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--profiling=false",
        ]
        if self._guests:
            command.append("--enable-admission-plugins=NodeRestriction")
        if self._certificate_seconds:
            command += [f"--client-ca-file={self._signer}", "--enable-bootstrap-token-auth=true"]
        if not self._controller_manager:  # nobody would make the account every pod is checked for
            command.append("--disable-admission-plugins=ServiceAccount")
        return command

    def _controller_manager_command(self) -> list[str]:
        controllers = _CONTROLLERS + (_GUESTS_CONTROLLERS if self._guests else ())
        signing: tuple[str, ...] = ()
        if self._certificate_seconds:
            controllers += _SIGNERS
            signing = (
                f"--cluster-signing-cert-file={self._signer}",
                f"--cluster-signing-key-file={self._signer.with_suffix('.key')}",
                f"--cluster-signing-duration={self._certificate_seconds}s",
            )
        return [
            str(self._programs["kube-controller-manager"]),
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(controllers)}",
            *signing,
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={self.directory / 'pki' / 'service-account.key'}",
            f"--root-ca-file={self.ca}",
        ]


def _openssl(*words: str) -> str:
    """What openssl prints.

    Raises:
        LocalError: OpensslMissing; ProgramEnded with what it said.
    """
    openssl = shutil.which("openssl")
    if not openssl:
        raise LocalError("OpensslMissing")
    made = subprocess.run([openssl, *words], capture_output=True, text=True, timeout=30, check=False)
    if made.returncode != 0:
        raise LocalError("ProgramEnded", program="openssl", tail=made.stderr.strip()[-300:], log="its output")
    return made.stdout


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
