"""`python -m proxykv` is the command line."""

import sys

from proxykv.cli import main

sys.exit(main())
