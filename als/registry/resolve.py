"""From a reference to the endpoints that serve it: the one place where configuration files, credentials and certificates
come together. What it returns is plain data, for a process that can read none of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from als.model.reference import Reference
from als.registry.auth import find_credential
from als.registry.certs import load_tls
from als.registry.conf import AUTH_FILES, load_conf
from als.registry.endpoint import Endpoint, Tls
from als.registry.environment import Environment


def resolve(
    reference: Reference, environment: Environment, *, leave_out: Collection[str] = (), anonymous: bool = False
) -> tuple[Endpoint, ...]:
    """The endpoints to ask for an image, in order, each with its own credential and certificates.

    Each endpoint's credential is looked up by its own name: a mirror is never shown the registry's.

    :param leave_out: ``HOST:PORT`` of mirrors that are not to be asked.
    :param anonymous: with nothing that tells who we are: no credential, no client certificate.
    :raises als.errors.ConfigError: a configuration file is malformed.
    :raises als.errors.RegistryDenied: the registry is blocked.
    """
    conf = load_conf(environment)
    helpers = conf.helpers or (AUTH_FILES,)
    endpoints = conf.endpoints(reference, leave_out)
    if anonymous:
        trusted = ((endpoint, load_tls(environment, endpoint.domain)) for endpoint in endpoints)
        return tuple(dataclasses.replace(endpoint, tls=Tls(tls.authorities)) for endpoint, tls in trusted)
    return tuple(
        dataclasses.replace(
            endpoint,
            credential=find_credential(endpoint.name, environment, helpers),
            tls=load_tls(environment, endpoint.domain),
        )
        for endpoint in endpoints
    )
