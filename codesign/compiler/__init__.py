"""From a network and a design to a memory plan, a command list and a DRAM image."""
