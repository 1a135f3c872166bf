"""Train a model bundle from labelled images.

python jobs/train.py --images photographs/ --model models/monkeys
ray job submit --working-dir . -- python jobs/train.py --images s3://… --model s3://… --gpu
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from monkeyray.cli.main import entry

if __name__ == "__main__":
    entry(command="train")
