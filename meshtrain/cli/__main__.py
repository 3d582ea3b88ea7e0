"""`python -m meshtrain.cli`."""

from meshtrain.cli.entry import main

main()
