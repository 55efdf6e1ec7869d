"""What a kubelet does with its credentials, run inside a booted slot: join by a token, use a certificate, renew it.

    joiner.py start NAME DIRECTORY SLOT     get in by kubelet.conf, else by bootstrap-kubelet.conf; write the own Node
    joiner.py renew NAME DIRECTORY SLOT     have the cluster sign another certificate, by the one in use
    joiner.py keep | try-first ...          put the one in use aside; ask with it

Files are as kubelet keeps them: DIRECTORY/kubelet-client-NUMBER.pem with key and certificate,
kubelet-client-current.pem a link to the newest, and kubelet.conf which names that link. Both .conf are JSON, which is
YAML as well.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import time

KUBERNETES = "/etc/kubernetes/"
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CURRENT = "kubelet-client-current.pem"
CONFIG = "/var/openssl.cnf"  # a slot of the test has none


class Api:
    """The API server as one of the .conf files has it."""

    def __init__(self, config, certificate=""):
        self.config = config
        self.context = ssl.create_default_context(cafile=config["cluster"]["certificate-authority"])
        certificate = certificate or config["user"].get("client-certificate", "")
        if certificate:
            self.context.load_cert_chain(certificate)

    def ask(self, method, path, body=None, kind="application/json"):
        """(status, decoded answer)"""
        headers = {"Content-Type": kind}
        if "token" in self.config["user"]:
            headers["Authorization"] = "Bearer " + self.config["user"]["token"]
        place = self.config["cluster"]["server"].partition("//")[2]
        connection = http.client.HTTPSConnection(place, timeout=20, context=self.context)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read().decode("utf-8") or "null")
        finally:
            connection.close()

    def good(self, *words):
        status, answer = self.ask(*words)
        if status >= 300:
            raise SystemExit(f"{words[:2]}: {status} {answer}")
        return answer


def read(name):
    with open(KUBERNETES + name, encoding="utf-8") as file:
        return json.load(file)


def openssl(*words):
    with open(CONFIG, "w") as file:
        file.write("[req]\ndistinguished_name=dn\n[dn]\n")
    environment = dict(os.environ, OPENSSL_CONF=CONFIG)
    done = subprocess.run(("openssl", *words), stdout=subprocess.PIPE, check=True, timeout=30, env=environment)
    return done.stdout.decode("ascii")


def sign(api, name, directory):
    """A key of our own, a request for its certificate, and both in the place of the former."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    number = len(os.listdir(directory))
    fresh = os.path.join(directory, f"kubelet-client-{number}.pem")
    key = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key)
    wish = openssl("req", "-new", "-key", fresh, "-subj", "/O=system:nodes/CN=system:node:" + name)
    spec = {"signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"]}
    spec["request"] = base64.b64encode(wish.encode("ascii")).decode("ascii")
    body = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "spec": spec}
    body["metadata"] = {"name": f"{name}-{number}"}
    api.good("POST", CSRS, body)
    deadline = time.monotonic() + 30
    while True:
        found = api.good("GET", CSRS + "/" + body["metadata"]["name"])
        if found["status"].get("certificate"):
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"not signed: {found}")
        time.sleep(0.1)
    with open(fresh, "a") as file:
        file.write(base64.b64decode(found["status"]["certificate"]).decode("ascii"))
    link = os.path.join(directory, CURRENT)
    os.symlink(os.path.basename(fresh), link + ".new")
    os.replace(link + ".new", link)


def start(name, directory, slot):
    way, api = "bootstrap", Api(read("bootstrap-kubelet.conf"))
    try:
        config = read("kubelet.conf")
        openssl("x509", "-noout", "-checkend", "0", "-in", config["user"]["client-certificate"])
        way, api = "certificate", Api(config)
    except (OSError, subprocess.CalledProcessError):  # no certificate, or one whose time is over
        status, _ = api.ask("GET", CSRS)
        if status == 401:
            return {"joined": False, "way": way, "status": status}
        sign(api, name, directory)
        config = dict(api.config, user={"client-certificate": os.path.join(directory, CURRENT)})
        with open(KUBERNETES + "kubelet.conf.new", "w") as file:
            json.dump(config, file)
        os.replace(KUBERNETES + "kubelet.conf.new", KUBERNETES + "kubelet.conf")
        api = Api(config)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    if api.ask("GET", "/api/v1/nodes/" + name)[0] == 404:
        api.good("POST", "/api/v1/nodes", node)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "slot " + slot}
    keys = ("machineID", "systemUUID", "bootID", "kernelVersion", "containerRuntimeVersion", "kubeletVersion")
    info = dict.fromkeys((*keys, "kubeProxyVersion", "operatingSystem", "architecture"), "x")
    status = {"status": {"conditions": [ready], "nodeInfo": dict(info, osImage="slot " + slot)}}
    kind = "application/strategic-merge-patch+json"
    api.good("PATCH", f"/api/v1/nodes/{name}/status", status, kind)
    return {"user": who(api), "joined": True, "way": way}


def who(api):
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = api.good("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    return answer["status"]["userInfo"]["username"]


def renew(name, directory, slot):
    sign(Api(read("kubelet.conf")), name, directory)
    return {"user": who(Api(read("kubelet.conf"))), "serial": serial(read("kubelet.conf"))}


def serial(config):
    return openssl("x509", "-noout", "-serial", "-in", config["user"]["client-certificate"]).strip()


def keep(name, directory, slot):
    config = read("kubelet.conf")
    with open(config["user"]["client-certificate"]) as file, open("/var/first.pem", "w") as copy:
        copy.write(file.read())
    return {"serial": serial(config)}


def try_first(name, directory, slot):
    return {"status": Api(read("kubelet.conf"), "/var/first.pem").ask("GET", "/api/v1/nodes/" + name)[0]}


VERBS = {"start": start, "renew": renew, "keep": keep, "try-first": try_first}
print(json.dumps(VERBS[sys.argv[1]](*sys.argv[2:])))
