"""Updates of a bundle's report after its build."""

import logging
from collections.abc import Callable

from codesign.bundle.files import StoredBundle, read_bundle, write_bundle
from codesign.bundle.serialize import json_bytes
from codesign.errors import BundleError, InputError
from codesign.report.report import Report

REPORT = ("report.json", "report.html")
"""File names of a report."""

_LOG = logging.getLogger(__name__)


def report_files(value: Report) -> dict[str, bytes]:
    """Contents of the report's files by name."""
    return dict(zip(REPORT, (json_bytes(value.to_json()), value.html().encode()), strict=True))


def recorded(bundle: StoredBundle, change: Callable[[Report], Report]) -> Report:
    """Changes a bundle's report, writes it to the folder if writable, and returns it.

    Args:
        bundle: the bundle as read; its report is read again to keep updates made since.
        change: returns the changed report.

    Raises:
        BundleError: the folder no longer holds this bundle.
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
    """The files that do not change after a build."""
    return {name: data for name, data in bundle.files.items() if name not in REPORT}
