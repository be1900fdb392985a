"""Where images come from: registries, OCI layouts and archives. Network and reading only; nothing here writes to disk.

Configuration and network are kept apart, because the network is spoken to by processes without privileges::

    registries.conf, auth.json, certs.d --- conf, auth, certs, resolve ---> Endpoint (plain data)
    Endpoint --- client (http, token, blob) ---> Source <--- layout, archive

Left of `Endpoint` files are read and credential helpers are run; right of it nothing reads a configuration file or the
environment.
"""
