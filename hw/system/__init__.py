"""The accelerator around the engines: top, sequencer, transfers, AXI registers."""
