"""The table of routes: one module per feature, each with its forms, its handlers, its rows."""

from __future__ import annotations

from mesh.admin.routes import (
    changes,
    invites,
    kv,
    locks,
    logs,
    members,
    messages,
    policy,
    secret,
    services,
    status,
    traffic,
    workloads,
)

ROUTES = (
    *status.ROUTES,
    *members.ROUTES,
    *invites.ROUTES,
    *policy.ROUTES,
    *kv.ROUTES,
    *locks.ROUTES,
    *changes.ROUTES,
    *logs.ROUTES,
    *messages.ROUTES,
    *services.ROUTES,
    *traffic.ROUTES,
    *workloads.ROUTES,
    *secret.ROUTES,
)
