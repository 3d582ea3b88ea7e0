"""`python -m meshtrain.cli`."""

from meshtrain.cli.main import main

main()
