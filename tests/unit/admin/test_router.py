"""The table of routes and the document made from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.admin import features, features_traffic
from mesh.admin.http import HttpError
from mesh.admin.openapi import document
from mesh.admin.router import Router
from mesh.admin.routes import ROUTES


@pytest.fixture
def router() -> Router:
    return Router(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_every_route_finds_itself(router: Router, route: Any) -> None:
    path = route.pattern.replace("...", "").replace("{", "").replace("}", "")
    found, words = router.find(route.method, path)
    assert found is route
    assert list(words) == route.words


def test_no_two_routes_answer_the_same_request() -> None:
    seen = [(route.method, route.pattern) for route in ROUTES]
    assert len(set(seen)) == len(seen)


def test_a_near_path_is_suggested(router: Router) -> None:
    with pytest.raises(HttpError) as caught:
        router.find("GET", "/v1/membres")
    assert "/v1/members" in caught.value.error.hint


@pytest.mark.parametrize("path", ["", "v1/status", "*", "/v1/kv/é"])
def test_odd_paths_are_errors_not_crashes(router: Router, path: str) -> None:
    with pytest.raises(HttpError):
        router.find("GET", path)


def test_every_route_names_a_feature_that_has_a_protocol() -> None:
    named = {**vars(features), **vars(features_traffic)}
    known = {name.lower() for name in named if name[:1].isupper()}
    assert {route.feature for route in ROUTES if route.feature} <= known


def test_every_reference_in_the_document_is_defined() -> None:
    made = document(ROUTES)
    schemas = made["components"]["schemas"]
    text = json.dumps(made)
    for piece in text.split('"#/components/schemas/')[1:]:
        assert piece.split('"')[0] in schemas
    operations = [one["operationId"] for path in made["paths"].values() for one in path.values()]
    assert len(set(operations)) == len(operations) == len(ROUTES)


def test_every_variable_of_a_path_is_described() -> None:
    for path, operations in document(ROUTES)["paths"].items():
        words = {part.strip("{}") for part in path.split("/") if part.startswith("{")}
        for operation in operations.values():
            described = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert described == words
