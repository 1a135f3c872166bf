"""Where an image is from and what its camera's clock is off by, as far as anything tells."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from monkeyray.exports.deployments import Deployment, Deployments
from monkeyray.exports.sites import SitePattern

_NO_OFFSET = timedelta(0)


@dataclass(frozen=True)
class Origin:
    """The deployment that claims an image, or else what a pattern finds in its path, or neither."""

    deployment: Deployment | None = None
    found: dict[str, str] | None = None

    @property
    def clock_offset(self) -> timedelta:
        """What is added to the camera's time to make it right."""
        return _NO_OFFSET if self.deployment is None else self.deployment.clock_offset

    @property
    def camera(self) -> tuple[str, ...]:
        """A name that the images of one camera share, empty where none is known."""
        if self.deployment is not None:
            return ("deployment", self.deployment.id)
        return () if self.found is None else ("camera", *self.found.values())

    @property
    def site(self) -> str | None:
        """Its site's name; where it has none, that of the deployment or camera."""
        if self.deployment is not None:
            return self.deployment.site or self.deployment.id
        found = self.found or {}
        return next(
            (found[name] for name in ("site", "deployment", "camera") if name in found), None
        )


def origin(
    path: str,
    captured_at: str | None,
    pattern: SitePattern | None,
    deployments: Deployments | None,
) -> Origin:
    """The origin of an image by its path below the images' folder and EXIF's local time.

    Images that no deployment, or no single one, claims are of the camera that the pattern finds.
    """
    if deployments is not None:
        deployment = deployments.date(path, captured_at).deployment
        if deployment is not None:
            return Origin(deployment)
    return Origin(found=pattern.match(path) if pattern is not None else None)
