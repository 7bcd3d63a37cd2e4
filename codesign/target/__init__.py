"""Boards, designs, the kernel contract, the installed engines and the command format."""
