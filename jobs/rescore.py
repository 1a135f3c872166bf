"""Score predictions that have embeddings again, with another head, temperature or threshold.

    python jobs/rescore.py --predictions out/ --model models/second --output rescored/
    ray job submit --working-dir . -- python jobs/rescore.py --predictions s3://… --model s3://… \
        --output s3://…
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from monkeyray.cli.main import entry

if __name__ == "__main__":
    entry(command="rescore")
