"""Co-design of edge accelerators: from a model file to a verified, generated FPGA design.

``load`` a model, take its ``heldout`` samples, ``search`` its designs on a board, ``build`` one, ``open`` it again,
``sweep`` many; a bundle has ``verify``, ``run`` and ``report``. Importing this package requires only numpy.
"""

from codesign.api import build, heldout, load, open, quantize, search, sweep
from codesign.flow.bundle import Bundle

__all__ = ["Bundle", "build", "heldout", "load", "open", "quantize", "search", "sweep"]
