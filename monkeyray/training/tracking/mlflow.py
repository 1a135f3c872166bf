"""Runs in MLflow: on a tracking server, or in files. MLflow is loaded only for --mlflow."""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monkeyray.errors import ConfigError
from monkeyray.redact import masked
from monkeyray.storage.location import Location
from monkeyray.training.tracking.tracker import Epoch, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The meaning of --mlflow local: MLflow's own default folder.
LOCAL = "mlruns"

#: The tag by which a run is found again.
_TAG = "monkeyray.run"

#: The metric whose presence means that an epoch was logged; it is written last.
_MARK = "validation_loss"

#: Limits of tracking servers.
_PARAMETER_LETTERS = 500
_PARAMETERS = 100
_METRICS = 1000

_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://")
_ENVIRONMENT = {
    # MLflow refuses its file store, which is in maintenance, without this.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By default MLflow retries for minutes, and all workers would wait.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri(option: str) -> str:
    """The tracking URI that --mlflow means; an absolute path for local files.

    Raises ConfigError for a URI that carries a password.
    """
    if option == "local":
        option = LOCAL
    if re.match(r"(databricks|uc)(-uc)?(://|:|$)", option):
        return option
    local = Location.of(option).is_local
    if not local and ("@" in option or masked(option) != option):
        raise ConfigError(
            "--mlflow contains credentials: remove them, and supply them through "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    return str(Location.parse(option)) if local else option


def local_place(option: str) -> str | None:
    """The folder that --mlflow means, None for a server."""
    uri = tracking_uri(option)
    return uri if uri.startswith("/") else None


def check_mlflow(option: str) -> None:
    """Raise ConfigError if MLflow is not installed or cannot use the URI."""
    uri = tracking_uri(option)
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--mlflow needs MLflow: pip install 'monkeyray[mlflow]'")
    if _DATABASE.match(uri) and importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError(
            f"--mlflow {uri} is a database, which needs the full MLflow package: pip install "
            "mlflow, or give a folder or the http:// address of a server"
        )
    if local_place(option) is not None:
        return  # the client would create the folder at once
    _environment()
    from mlflow.exceptions import MlflowException

    try:
        _client(uri)
    except MlflowException as error:
        reason = str(error).partition(". ")[0].splitlines()[0][:200]
        raise ConfigError(
            f"--mlflow {uri} cannot be used ({reason}): give local, a folder, or the http:// of a "
            "tracking server"
        ) from None


@dataclass
class MlflowRun(Tracker):
    """One run in MLflow; all methods raise what MLflow raises.

    `key`: identifies the training, so that the same command continues the run. `run_id`: known once
    `begin` has found or created it.
    """

    uri: str
    experiment: str
    name: str
    key: str
    parameters: Mapping[str, Any]
    run_id: str | None = None

    def __str__(self) -> str:
        return f"MLflow at {masked(self.uri)}"

    def begin(self) -> str:
        """Find the unfinished run of this key, or create it; returns where it is."""
        from mlflow.entities import Param

        client = _client(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        unfinished = f"tags.`{_TAG}` = '{self.key}' and attributes.status != 'FINISHED'"
        runs = client.search_runs([experiment], unfinished, max_results=1)
        if runs:
            run_id = runs[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            tags = {_TAG: self.key}
            run_id = client.create_run(experiment, tags=tags, run_name=self.name).info.run_id
        params = [
            Param(key, str(value)[:_PARAMETER_LETTERS]) for key, value in flatten(self.parameters)
        ]
        for start in range(0, len(params), _PARAMETERS):
            client.log_batch(run_id, params=params[start : start + _PARAMETERS])
        self.run_id = run_id
        return f"MLflow: run {self.name} of {self.experiment} in {masked(self.uri)}"

    def last(self, stage: str) -> int:
        """The last epoch that was logged, -1 for none."""
        history = _client(self.uri).get_metric_history(self.run_id, f"{stage}/{_MARK}")
        return max((metric.step for metric in history), default=-1)

    def write(self, stage: str, epochs: Sequence[Epoch]) -> None:
        """Log epochs."""
        from mlflow.entities import Metric

        client = _client(self.uri)
        metrics = [
            Metric(f"{stage}/{key}", value, round(1000 * seconds), figures["epoch"])
            for seconds, figures in epochs
            for key, value in sorted(figures.items(), key=lambda item: item[0] == _MARK)
            if key != "epoch" and value is not None
        ]
        for start in range(0, len(metrics), _METRICS):
            client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS])

    def finish(self, model: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Log the final figures, the model id and `files` (texts by name), and end the run."""
        from mlflow.entities import Metric

        client, now = _client(self.uri), round(1000 * time.time())
        figures = {name: model["metrics"][name] for name in ("estimate", "test")}
        metrics = [
            Metric(key, float(value), now, 0)
            for key, value in flatten(figures)
            if isinstance(value, int | float)
        ]
        client.log_batch(self.run_id, metrics)
        client.set_tag(self.run_id, "monkeyray.model_id", model["model_id"])
        for name, text in files.items():
            client.log_text(self.run_id, text, name)
        client.set_terminated(self.run_id)

    def interrupt(self, status: str) -> None:
        """End the run as `FAILED` or `KILLED`; the same command continues it."""
        _client(self.uri).set_terminated(self.run_id, status)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under names with slashes.

    >>> dict(flatten({"a": 1, "b": {"c": None}}))
    {'a': 1, 'b/c': None}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _environment() -> None:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _client(uri: str) -> MlflowClient:
    _environment()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
