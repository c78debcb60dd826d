"""`python -m cunet` is the command `cunet`."""

from cunet.cli import main

main()
