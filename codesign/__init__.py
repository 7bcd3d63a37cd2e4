"""Co-design of edge accelerators: from a model file to a verified, generated FPGA design.

``load`` a model, take its ``heldout`` samples, ``build`` an accelerator for a board, ``open`` one again; a
bundle has ``verify``, ``run`` and ``report``. Importing this package needs numpy alone.
"""

from codesign.flow import Bundle, build, heldout, load, open

__all__ = ["Bundle", "build", "heldout", "load", "open"]
