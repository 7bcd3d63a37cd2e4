"""Bundle folder on disk, and serialization of networks, designs and programs."""
