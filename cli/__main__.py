"""`python -m mlx_diffusion.cli`, the same as the command `mlx-diffusion`."""

import sys

from mlx_diffusion.cli.main import main

sys.exit(main())
