"""Score a collection of images with a model bundle.

    python jobs/score.py --images photographs/ --model models/monkeys --predictions out/
    ray job submit --working-dir . -- python jobs/score.py --images s3://… --model s3://… \
        --predictions s3://…
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from monkeyray.cli.main import entry

if __name__ == "__main__":
    entry(command="score")
