"""`python -m mlx_diffusion`, the same as the command `mlx-diffusion`."""

import sys

from mlx_diffusion.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
