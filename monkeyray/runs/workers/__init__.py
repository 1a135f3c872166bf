"""The workers that make the shards of a run: processes of this machine, or Ray actors."""
