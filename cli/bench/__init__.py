"""`mlx-diffusion bench`: speed, memory, and how near they come to the device's limits."""

PUBLISHED = "published"  # given in place of a folder, stands for the published checkpoint's config.json
