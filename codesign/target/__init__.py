"""What is built: boards, designs, the contract of a kernel, the engines that there are, the command format."""
