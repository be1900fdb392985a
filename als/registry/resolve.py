"""From a reference to the endpoints that serve it: the one place where configuration files, credentials and certificates
come together. What it returns is plain data, for a process that can read none of these."""

from __future__ import annotations

import dataclasses

from als.model.reference import Reference
from als.registry.auth import find_credential
from als.registry.certs import load_tls
from als.registry.conf import AUTH_FILES, load_conf
from als.registry.endpoint import Endpoint
from als.registry.environment import Environment


def resolve(reference: Reference, environment: Environment) -> tuple[Endpoint, ...]:
    """The endpoints to ask for an image, in order, each with its own credential and certificates.

    Each endpoint's credential is looked up by its own name: a mirror is never shown the registry's.

    :raises als.errors.ConfigError: a configuration file is malformed.
    :raises als.errors.RegistryDenied: the registry is blocked.
    """
    conf = load_conf(environment)
    helpers = conf.helpers or (AUTH_FILES,)
    return tuple(
        dataclasses.replace(
            endpoint,
            credential=find_credential(endpoint.name, environment, helpers),
            tls=load_tls(environment, endpoint.domain),
        )
        for endpoint in conf.endpoints(reference)
    )
