"""The columns of Camtrap DP 1.0.2, and how it names files and their types."""

from __future__ import annotations

import re
from urllib.parse import quote

import pyarrow as pa

from monkeyray.exports.rows import relative
from monkeyray.storage.location import is_local

DEPLOYMENTS = (
    "deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty",
    "deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay",
    "cameraHeight", "cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance",
    "timestampIssues", "baitUse", "featureType", "habitat", "deploymentGroups", "deploymentTags",
    "deploymentComments",
)  # fmt: skip

_MEDIA = (
    "mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName",
    "fileMediatype", "exifData", "favorite", "mediaComments",
)  # fmt: skip
_OBSERVATIONS = (
    "observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd",
    "observationLevel", "observationType", "cameraSetupType", "scientificName", "count",
    "lifeStage", "sex", "behavior", "individualID", "individualPositionRadius",
    "individualPositionAngle", "individualSpeed", "bboxX", "bboxY", "bboxWidth", "bboxHeight",
    "classificationMethod", "classifiedBy", "classificationTimestamp",
    "classificationProbability", "observationTags", "observationComments",
)  # fmt: skip
#: In the order of left, top, width and height.
BBOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
_TYPES = {
    "filePublic": pa.bool_(),
    "classificationProbability": pa.float64(),
    **dict.fromkeys(BBOX, pa.float64()),
}

MEDIA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _MEDIA])
OBSERVATIONS = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _OBSERVATIONS])

#: What the schema of media.filePath takes.
_PATH = re.compile(r"(?![./~])(?!.*\.\.).+")

_MEDIATYPES = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "jpe": "image/jpeg", "jfif": "image/jpeg",
    "mpo": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif",
    "tif": "image/tiff", "tiff": "image/tiff", "bmp": "image/bmp", "avif": "image/avif",
    "heic": "image/heic", "heif": "image/heif", "mp4": "video/mp4", "m4v": "video/mp4",
    "avi": "video/x-msvideo", "mov": "video/quicktime", "mkv": "video/matroska",
    "webm": "video/webm", "mpg": "video/mpeg", "mpeg": "video/mpeg", "wmv": "video/x-ms-wmv",
}  # fmt: skip


def mediatype(uri: str) -> str:
    """The IANA media type that the end of a file's name says; a JPEG where it says none, as nearly
    all cameras write.

    >>> mediatype("/a/IMG_1.JPG"), mediatype("/a/n9151jpg"), mediatype("/a/b.png")
    ('image/jpeg', 'image/jpeg', 'image/png')
    """
    return _MEDIATYPES.get(uri.rpartition("/")[2].rpartition(".")[2].lower(), "image/jpeg")


def file_path(uri: str, root: str | None) -> str | None:
    """`media.filePath`: the path below `root`, else the URL of an image that is in a store.

    None for what the standard cannot hold: no absolute path, and no path that begins with `.` or
    `~` or has two dots side by side in it.

    >>> file_path("/x/a/b c.jpg", "/x"), file_path("s3://bucket/a/b c.jpg", None)
    ('a/b c.jpg', 's3://bucket/a/b%20c.jpg')
    """
    path = relative(uri, root) if root is not None else None
    if path is None and not is_local(uri):
        head, _, rest = uri.partition("://")
        path = f"{head}://{quote(rest, safe='/')}"
        # In a URL the dots of a name can be written in another way.
        path = path.replace("..", "%2E%2E")
    return path if path is not None and _PATH.fullmatch(path) else None
