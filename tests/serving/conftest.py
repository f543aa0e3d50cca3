"""The bundles of the tests of the export."""

from tests.export.conftest import (  # noqa: F401
    bundle,
    bundle_of,
    folder_of,
    source_of,
    vlm_folder,
)
