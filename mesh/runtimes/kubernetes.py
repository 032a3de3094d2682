"""The runtime `kubernetes`: each instance a Deployment in the cluster that this node fronts.

Server-side apply (fieldManager mesh) makes a start the same as an update, and its name keeps it single. The
cluster restarts what crashes; an instance counts as ended when its Deployment makes no progress for two
minutes (an image that cannot be pulled, a container that crashes again and again), or is gone.

Tested against a server of our own that accepts only what the published models of the API (1.31) have, not
against a cluster.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode

import trio

from mesh.errors import Denied, Failed, MeshError, NotFound
from mesh.runtimes import manifest
from mesh.runtimes.base import Exit, Launch, Line, Running, Usage, check_instance
from mesh.runtimes.kubeconfig import Cluster
from mesh.runtimes.web import Answer, Web

LOOK_S = 2.0
GONE_S = 60.0
APPLY = "application/apply-patch+yaml"
Json = dict[str, Any]


class Kubernetes:
    """See `mesh.runtimes.base.Runtime`."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._api = Api(cluster)
        self._node = node

    async def start(self, launch: Launch) -> Running:
        """See `mesh.runtimes.base.Runtime`. A Deployment that is there already is brought in line."""
        launch.check()
        manifest.check(launch)
        name = manifest.name_of(launch.instance, self._node)
        for claim in manifest.claims(launch, name, self._node):
            await self._api.apply("persistentvolumeclaims", claim)
        found = await self._api.apply("deployments", manifest.deployment(launch, name, self._node))
        return Deployment(self._api, found)

    async def adopt(self) -> list[Running]:
        """See `mesh.runtimes.base.Runtime`."""
        found: list[Running] = []
        for item in await self._api.list("deployments", f"{manifest.PREFIX}node={self._node}"):
            try:
                found.append(Deployment(self._api, item))
            except MeshError:
                continue
        return sorted(found, key=lambda each: each.instance)

    async def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        """See `mesh.runtimes.base.Runtime`. Of the newest pod."""
        name = manifest.name_of(check_instance(instance), self._node)
        pods = await self._api.list("pods", f"{manifest.PREFIX}name={name}")
        if not pods:
            raise NotFound(f"{instance[:80]} has no pod in the cluster")
        newest = max(pods, key=lambda pod: str(_meta(pod).get("creationTimestamp", "")))
        async with aclosing(self._api.logs(str(_meta(newest)["name"]), tail, follow=follow)) as lines:
            async for line in lines:
                yield line

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        """See `mesh.runtimes.base.Runtime`."""
        name = manifest.name_of(check_instance(instance), self._node)
        await self._api.delete("deployments", name)
        if not keep_data:
            for claim in await self._api.list("persistentvolumeclaims", f"{manifest.PREFIX}name={name}"):
                await self._api.delete("persistentvolumeclaims", str(_meta(claim)["name"]))


class Deployment:
    """See `mesh.runtimes.base.Running`."""

    def __init__(self, api: Api, item: Json) -> None:
        meta = _meta(item)
        notes = meta.get("annotations") or {}
        self._api = api
        self._name = str(meta.get("name", ""))
        self.instance = check_instance(str(notes.get(f"{manifest.PREFIX}instance", "")))
        self.digest = str(notes.get(f"{manifest.PREFIX}digest", ""))
        epoch = str(notes.get(f"{manifest.PREFIX}epoch", "0"))
        self.epoch = int(epoch) if epoch.isdigit() else 0
        self.notes: tuple[str, ...] = ()
        self.over = False

    async def wait(self) -> Exit:
        """See `mesh.runtimes.base.Running`. A cluster that cannot be asked is asked again."""
        while True:
            try:
                item = await self._api.get("deployments", self._name)
                if why := stuck(item):
                    return Exit(why=f"{why}{await self._trouble()}"[:500])
            except NotFound:
                return Exit(lost=True, why="its Deployment was deleted")
            except MeshError:
                pass
            await trio.sleep(LOOK_S)

    async def _trouble(self) -> str:
        """What the pods wait for, in the cluster's own words."""
        for pod in await self._api.list("pods", f"{manifest.PREFIX}name={self._name}"):
            for status in (pod.get("status") or {}).get("containerStatuses") or ():
                waiting = (status.get("state") or {}).get("waiting") or {}
                if waiting.get("reason"):
                    return f": {waiting['reason']}: {waiting.get('message', '')}"
        return ""

    async def stop(self, grace_s: float | None = None) -> Exit:
        """See `mesh.runtimes.base.Running`."""
        grace = None if grace_s is None else round(grace_s)
        await self._api.delete("deployments", self._name, grace_s=grace)
        with trio.move_on_after((grace_s or 0) + GONE_S):
            while True:
                try:
                    await self._api.get("deployments", self._name)
                except NotFound:
                    break
                await trio.sleep(LOOK_S / 4)
        return Exit(asked=True, why="stopped")

    async def usage(self, *, storage: bool = False) -> Usage:
        """Not known: it needs the cluster's metrics server."""
        return Usage()

    def renew(self, deadline_s: float) -> None:
        """Never asked: exclusive launches are refused."""


def stuck(item: Json) -> str:
    """Why a Deployment makes no progress, "" while it does."""
    for condition in (item.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no progress")[:300]
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return str(condition.get("message") or "no pod can be made")[:300]
    return ""


class Api:
    """The few calls of the cluster's API that are needed, in one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._base = cluster.path
        self._space = quote(cluster.namespace, safe="")
        host = f"[{cluster.host}]" if ":" in cluster.host else cluster.host

        def headers() -> dict[str, str]:
            token = cluster.token()
            return {"host": host, **({"authorization": f"Bearer {token}"} if token else {})}

        self._web = Web(f"the cluster at {cluster.host}", cluster.opener(), headers)

    def _target(self, kind: str, name: str = "", **query: object) -> str:
        group = "/apis/apps/v1" if kind == "deployments" else "/api/v1"
        path = f"{self._base}{group}/namespaces/{self._space}/{kind}"
        path += f"/{quote(name, safe='/')}" if name else ""
        return f"{path}?{urlencode(query)}" if query else path

    async def apply(self, kind: str, item: Json) -> Json:
        """Server-side apply: what is there becomes this, whoever wrote it."""
        target = self._target(kind, item["metadata"]["name"], fieldManager=manifest.MANAGER, force="true")
        return _object(await self._web.ask("PATCH", target, item, content_type=APPLY))

    async def get(self, kind: str, name: str) -> Json:
        return _object(await self._web.ask("GET", self._target(kind, name)))

    async def list(self, kind: str, selector: str) -> list[Json]:
        found = _object(await self._web.ask("GET", self._target(kind, labelSelector=selector, limit=500)))
        return [item for item in found.get("items") or () if isinstance(item, dict)]

    async def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """With what it owns; what is not there is fine."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            _object(await self._web.ask("DELETE", self._target(kind, name), body))
        except NotFound:
            pass

    async def logs(self, pod: str, tail: int, *, follow: bool) -> AsyncGenerator[Line, None]:
        query = {"timestamps": "true", "tailLines": tail, "follow": str(follow).lower()}
        rest = b""
        async with aclosing(self._web.stream(self._target("pods", f"{pod}/log", **query))) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                rest = rest[-(1 << 20) :]
                for row in lines:
                    time, _, text = row.partition(b" ")
                    yield Line(time.decode("ascii", "replace")[:40], "stdout", text.decode(errors="replace"))


def _meta(item: Json) -> Json:
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def _object(answer: Answer) -> Json:
    """The answer, or the error that it is, in the cluster's own words."""
    found = answer.json()
    if not isinstance(found, dict):
        raise Failed("the cluster sent an answer that cannot be read")
    if answer.status < 400:
        return found
    text = f"the cluster refuses: {found.get('message') or answer.status}"[:600]
    if answer.status == 404:
        raise NotFound(text)
    if answer.status in (401, 403):
        raise Denied(text, "its account needs the right to patch deployments in this namespace")
    raise Failed(text)
