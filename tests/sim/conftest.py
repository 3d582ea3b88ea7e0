import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# The swarm's simulation is a benchmark too. Last: its names are not to hide any other's.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
