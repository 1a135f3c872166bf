"""Runs in MLflow: on a tracking server, or in files.

MLflow is no requirement of MonkeyRay, and is loaded only where --mlflow asks for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monkeyray.errors import ConfigError
from monkeyray.redact import masked
from monkeyray.storage.location import is_local, normalise

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: What --mlflow local means: where MLflow itself would put its files.
LOCAL = "mlruns"

#: What finds a run again.
_TAG = "monkeyray.run"

#: The figure that says that an epoch is there.
_MARK = "validation_loss"

#: Longer values are refused by servers, and more than so many at once.
_PARAMETER_LETTERS = 500
_PARAMETERS = 100
_METRICS = 1000

_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://")
_ENVIRONMENT = {
    # Files are what MLflow calls in maintenance, and refuses unless one insists.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # It would report its use to its makers.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its own patience with a server that is away is minutes, in which all workers would wait.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri(option: str) -> str:
    """The tracking URI that --mlflow means: of local files an absolute path.

    Raises ConfigError for a URI that carries a password.
    """
    if option == "local":
        option = LOCAL
    if re.match(r"(databricks|uc)(-uc)?(://|:|$)", option):
        return option
    if not is_local(option) and ("@" in option or masked(option) != option):
        raise ConfigError(
            "--mlflow carries credentials: take them out, and give them through "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    return normalise(option) if is_local(option) else option


def local_place(option: str) -> str | None:
    """The folder that --mlflow means, None for a server."""
    uri = tracking_uri(option)
    return uri if uri.startswith("/") else None


def check_mlflow(option: str) -> None:
    """Raise ConfigError where MLflow is not there, or cannot make anything of the URI."""
    uri = tracking_uri(option)
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--mlflow needs MLflow: pip install 'monkeyray[mlflow]'")
    if _DATABASE.match(uri) and importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError(
            f"--mlflow {uri} is a database, for which the whole of MLflow is needed: pip install "
            "mlflow, or give a folder or the http:// of a server"
        )
    if local_place(option) is not None:
        return  # MLflow would make the folder at once
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


@dataclass(frozen=True)
class MlflowRun:
    """One run of a tracking server or of a folder."""

    uri: str
    run_id: str

    @classmethod
    def begin(
        cls, uri: str, experiment: str, name: str, key: str, parameters: Mapping[str, Any]
    ) -> MlflowRun:
        """The run of this `key` that has not finished, or a new one of this name.

        Raises what MLflow raises.
        """
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        unfinished = f"tags.`{_TAG}` = '{key}' and attributes.status != 'FINISHED'"
        runs = client.search_runs([experiment_id], unfinished, max_results=1)
        if runs:
            run_id = runs[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment_id, tags={_TAG: key}, run_name=name).info.run_id
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_PARAMETER_LETTERS]) for key, value in parameters.items()]
        for start in range(0, len(params), _PARAMETERS):
            client.log_batch(run_id, params=params[start : start + _PARAMETERS])
        return cls(uri, run_id)

    def finish(self, figures: Mapping[str, float], model_id: str, files: Mapping[str, str]) -> None:
        """Add what is known at the end, and end the run. `files`: texts by name.

        Raises what MLflow raises.
        """
        from mlflow.entities import Metric

        client = _client(self.uri)
        now = round(1000 * time.time())
        client.log_batch(self.run_id, [Metric(key, figures[key], now, 0) for key in figures])
        client.set_tag(self.run_id, "monkeyray.model_id", model_id)
        for name, text in files.items():
            client.log_text(self.run_id, text, name)
        client.set_terminated(self.run_id)

    def end(self, status: str) -> None:
        """End the run as `FAILED` or `KILLED`; the same command goes on with it."""
        _client(self.uri).set_terminated(self.run_id, status)


@dataclass(frozen=True)
class MlflowStage:
    """The curves of one stage in a run."""

    run: MlflowRun
    stage: str

    def __str__(self) -> str:
        return f"epochs of {self.stage} in MLflow at {masked(self.run.uri)}"

    def forget(self, after: int) -> None:
        """MLflow keeps what it has: an epoch that is trained again has the same figures."""

    def last(self) -> int:
        """The last epoch that is there, -1 for none. Raises what MLflow raises."""
        key = f"{self.stage}/{_MARK}"
        history = _client(self.run.uri).get_metric_history(self.run.run_id, key)
        return max((metric.step for metric in history), default=-1)

    def write(self, epochs: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
        """Log epochs, each with its time in seconds since 1970. Raises what MLflow raises."""
        from mlflow.entities import Metric

        client = _client(self.run.uri)
        metrics = [
            Metric(f"{self.stage}/{key}", value, round(1000 * seconds), figures["epoch"])
            for seconds, figures in epochs
            # The one that `last` looks for goes last.
            for key, value in sorted(figures.items(), key=lambda item: item[0] == _MARK)
            if key != "epoch" and value is not None
        ]
        for start in range(0, len(metrics), _METRICS):
            client.log_batch(self.run.run_id, metrics=metrics[start : start + _METRICS])


def _environment() -> None:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _client(uri: str) -> MlflowClient:
    _environment()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
