"""The accelerator around the engines: top, sequencer, movers, read path, AXI registers."""
