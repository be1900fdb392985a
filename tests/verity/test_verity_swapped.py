"""EROFS images that somebody swapped while als did not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from als.native.verity import seal_files
from als.service.recovery import put_right
from als.service.repair import fsck
from tests.harness.policy import ExpectedLogs
from tests.harness.system import unmount_below
from tests.verity.test_verity_sealed import assert_sealed, base, changed, made, opened, pull, swapped

pytestmark = pytest.mark.in_vm


@pytest.mark.parametrize("setting", ["prefer", "require"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_start_leaves_no_swapped_image_to_clients(
    sealable: Path, setting: str, everywhere: bool, expect_log: ExpectedLogs
) -> None:
    """podman 5 and CRI-O mount what lies in the image store, and ask nobody."""
    expect_log("the image has the fs-verity digest")
    expect_log("damaged parts of the store are put right")
    layout = made(sealable, base())
    with opened(sealable, setting) as service:
        image = pull(service, layout)
        [diff_id], [chain_id] = image.config.diff_ids, image.chain
        unmount_below(service.layout.root)
        blob, path = service.composefs.blob(chain_id), service.layers.image(diff_id)

        def by(copy: Path) -> None:
            changed(copy)
            seal_files([str(copy)])

        swapped(blob, by)
        if everywhere:
            path.unlink()
            path.hardlink_to(blob)
    with opened(sealable, setting) as service:
        put_right(service)
        if everywhere:
            assert chain_id not in service.composefs.published() and diff_id not in service.layers.ids()
            pull(service, layout)
        assert_sealed(service, diff_id)
        assert service.composefs.blob(chain_id).samefile(service.layers.image(diff_id))
        assert not fsck(service, deep=True).found
