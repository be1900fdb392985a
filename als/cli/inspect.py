"""``als inspect``: all that is known of an image or a layer."""

from __future__ import annotations

import click

from als.cli.exitcodes import exit_code
from als.cli.output import bytes_text, print_facts, print_json, time_text
from als.config import Config
from als.errors import NotFound, StoreDamaged
from als.model.digest import Digest
from als.service import Service
from als.service.trust import Link, State, verify_image
from als.store.images import ImageRecord
from als.store.layers import LayerRecord


@click.command()
@click.argument("name", metavar="IMAGE|LAYER")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--verify", is_flag=True, help="Check an image's chain of trust instead, link by link; reads all of it.")
@click.pass_obj
def command(config: Config, name: str, as_json: bool, verify: bool) -> int:
    """Show an image's or a layer's format, how it is served, why it is or is not lazy, references and sizes.

    A layer is named by its DiffID or a beginning of it, at least 6 digits. With --verify the exit status is 6 if a check
    failed, also if something is not sealed although verity = "require" is set.
    """
    with Service(config) as service:
        if verify:
            return _verify(service, service.find(name), as_json)
        try:
            facts = _image(service, service.find(name))
        except NotFound as error:
            record = _find_layer(service, name)
            if record is None:
                raise error
            facts = _layer(service, record)
    if as_json:
        print_json(facts)
    else:
        print_facts({key: _text(key, value) for key, value in facts.items()})
    return 0


def _verify(service: Service, image: ImageRecord, as_json: bool) -> int:
    links: list[Link] = []
    for link in verify_image(service, image):
        links.append(link)
        if not as_json:
            click.echo(f"{link.state.value:<6}  {link.name:<11}  {link.subject}\n        {link.detail}")
    if as_json:
        print_json(
            [{"link": each.name, "of": each.subject, "state": each.state.value, "detail": each.detail} for each in links]
        )
    wrong = {State.FAILED, State.OPEN} if service.verity.required else {State.FAILED}
    return exit_code(StoreDamaged("")) if any(link.state in wrong for link in links) else 0


def _find_layer(service: Service, name: str) -> LayerRecord | None:
    digits = name.removeprefix("sha256:")
    found = [record for record in service.layers.all() if len(digits) >= 6 and record.diff_id.hex.startswith(digits)]
    return found[0] if len(found) == 1 else None


def _image(service: Service, image: ImageRecord) -> dict[str, object]:
    names = [ref for ref in service.images.refs() if ref.digest == image.digest]
    references = [ref.reference for ref in names]
    uses = {use.digest: use.count for use in service.uses.all() if use.reference in references}
    published = {store.root.name: store.published() for store in service.image_stores}
    layers = []
    for descriptor, diff_id, chain_id in zip(image.manifest.layers, image.config.diff_ids, image.chain, strict=True):
        record = service.layers.get(diff_id) if service.layers.has(diff_id) else None
        layers.append(
            {
                "blob": str(descriptor.digest),
                "blob_verified": record.is_held_by(descriptor.digest) if record else False,
                "blob_size": descriptor.size,
                "media_type": descriptor.media_type,
                "diff_id": str(diff_id),
                "chain_id": chain_id,
                "format": record.format if record else None,
                "size": record.diff_size if record else None,
                "image_stores": [name for name, chains in published.items() if chain_id in chains],
                "additional_layer_store": service.refusal(image, descriptor.digest) or "served",
                "uses": uses.get(str(descriptor.digest), 0),
            }
        )
    return {
        "digest": str(image.digest),
        "listed_as": sorted({str(ref.listed) for ref in names}),
        "references": references,
        "platform": "/".join(filter(None, (image.config.os, image.config.architecture, image.config.variant))),
        "media_type": image.media_type,
        "served": _how_served(service, image),
        "lazy": LAZY,
        "size": sum(int(str(layer["size"])) for layer in layers if layer["size"] is not None),
        "blob_size": sum(layer.size for layer in image.manifest.layers),
        "layers": layers,
    }


LAZY = "no: a tar stream has no index, so a layer is whole before it is served"


def _how_served(service: Service, image: ImageRecord) -> list[str]:
    count = len(image.manifest.layers)
    return [
        f"from {store.root}, without FUSE"
        if store.fits(count)
        else f"not from {store.root}: podman 4 cannot mount {count} layers"
        for store in service.publishing
    ]


def _layer(service: Service, record: LayerRecord) -> dict[str, object]:
    images = [service.images.get(ref.digest) for ref in service.images.refs()]
    chains = {
        chain_id
        for image in images
        for diff_id, chain_id in zip(image.config.diff_ids, image.chain, strict=True)
        if diff_id == record.diff_id
    }
    mounted = sorted(chain_id for chain_id in chains if service.diff_n.is_ready(chain_id))
    return {
        "diff_id": str(record.diff_id),
        "format": record.format,
        "lazy": LAZY,
        "size": record.diff_size,
        "object_bytes": record.object_bytes,
        "metadata_bytes": service.layers.metadata_bytes(record.diff_id),
        "names": record.names,
        "created": record.created,
        "blobs": [str(blob) for blob in record.blobs],
        "tocs": [str(toc) for toc in record.tocs],
        "chain_ids": sorted(chains),
        "mounted": mounted,
        "images": [ref.reference for ref in service.images.refs() if record.diff_id in _diff_ids(service, ref.digest)],
    }


def _diff_ids(service: Service, digest: Digest) -> tuple[Digest, ...]:
    return service.images.get(digest).config.diff_ids


def _text(key: str, value: object) -> object:
    if key in ("size", "blob_size", "object_bytes", "metadata_bytes"):
        return bytes_text(int(str(value)))
    if key == "created":
        return time_text(float(str(value)))
    if key == "layers" and isinstance(value, list):
        return [
            f"{layer['diff_id'][7:19]}  {bytes_text(layer['size'] or 0):>9}  blob {layer['blob'][7:19]}  {layer['format']}  "
            f"in {' and '.join(layer['image_stores']) or 'no image store'}, layer store: "
            f"{layer['additional_layer_store']}, uses: {layer['uses']}"
            for layer in value
        ]
    return value
