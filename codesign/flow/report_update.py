"""What becomes known of a bundle after its build, written into its report."""

import logging
from collections.abc import Callable

from codesign.bundle.files import StoredBundle, read_bundle, write_bundle
from codesign.bundle.serialize import json_bytes
from codesign.errors import BundleError, InputError
from codesign.report.report import Report

REPORT = ("report.json", "report.html")
"""The files of a report."""

_LOG = logging.getLogger(__name__)


def report_files(value: Report) -> dict[str, bytes]:
    """The report as the bundle's two files."""
    return dict(zip(REPORT, (json_bytes(value.to_json()), value.html().encode()), strict=True))


def recorded(bundle: StoredBundle, change: Callable[[Report], Report]) -> Report:
    """The changed report of a bundle; written into its folder if that can be written.

    Args:
        bundle: as it was read; its report is read again, so that nothing is lost that was noted in between.
        change: adds what is known now.

    Raises:
        BundleError: the folder holds another bundle by now, or none.
    """
    here = read_bundle(bundle.path)
    if _built(here) != _built(bundle):
        raise BundleError(f"{bundle.path} was built anew in between; legal: a bundle that stays while it is used")
    noted = change(Report.from_json(here.json("report.json")))
    try:
        write_bundle(bundle.path, {**here.files, **report_files(noted)})
    except InputError as error:
        _LOG.warning("the report keeps its old state: %s", error)
    return noted


def _built(bundle: StoredBundle) -> dict[str, bytes]:
    """The files that never change after a build."""
    return {name: data for name, data in bundle.files.items() if name not in REPORT}
