"""Files as cards, networks and attackers leave them, each with the statuses that are right for it.

A name begins with the format that the file is, or claims to be: `jpeg-cut-12-of-30.jpg`.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, features

from tests.support.pictures import encode

#: Name, bytes, and the statuses that are right, separated by spaces.
Files = Iterator[tuple[str, bytes, str]]

#: Where damage falls by chance, it may be escape_control or fatal.
ANY_DAMAGE = "ok truncated damaged unreadable"
#: And it may hit the header, or the first bytes.
ANY = ANY_DAMAGE + " unsupported too_large"

#: More pixels than are decoded: by one column, by far, and only on one side.
TOO_LARGE = ((12248, 12248), (65500, 65500), (65500, 2400))

#: Cameras write orientation 6 for a picture that stands on its side.
ON_ITS_SIDE = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


def hostile_files(photo: bytes) -> dict[str, tuple[bytes, set[str]]]:
    """File name to bytes and the statuses that are right for it; the same for the same photo."""
    picture = Image.open(io.BytesIO(photo)).convert("RGB")
    files: dict[str, tuple[bytes, set[str]]] = {}
    for group in (
        _jpegs(photo, picture.resize((640, 480))),
        _jpeg_segments(picture.resize((320, 240))),
        _exif(picture.resize((320, 240))),
        _pngs(picture.resize((160, 120))),
        _gifs(picture.resize((160, 120))),
        _webps(picture.resize((160, 120))),
        _tiffs(picture.resize((160, 120))),
        _bmps(picture.resize((160, 120))),
        _avifs(picture.resize((160, 120))),
        _others(encode(picture.resize((160, 120)))),
    ):
        for name, data, statuses in group:
            assert name not in files, name
            files[name] = data, set(statuses.split())
    return files


def flips(data: bytes, seed: int, start: int = 0, count: int = 1) -> bytes:
    """`count` bits flipped from byte `start` on."""
    chance, broken = random.Random(seed), bytearray(data)
    for _ in range(count):
        broken[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def segments(jpeg: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and end of each segment; that of a scan (0xDA) has the scan's data in it."""
    found, position = [], 2
    while position < len(jpeg):
        marker, start = jpeg[position + 1], position
        if marker == 0xD9:
            position += 2
        else:
            position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == 0xDA:
            while jpeg[position] != 0xFF or jpeg[position + 1] in (0, *range(0xD0, 0xD8)):
                position += 1
        found.append((marker, start, position))
        if marker == 0xD9:
            break
    return found


# -- JPEG --------------------------------------------------------------------------------------


def _jpegs(photo: bytes, picture: Image.Image) -> Files:
    baseline = encode(picture, quality=90)
    progressive = encode(picture, quality=90, progressive=True)
    cmyk = encode(picture.convert("CMYK"))
    adobe = cmyk.index(b"Adobe")
    yield "jpeg-photo.jpg", photo, "ok"
    yield "jpeg-baseline.jpg", baseline, "ok"
    yield "jpeg-progressive.jpg", progressive, "ok"
    yield "jpeg-grey.jpg", encode(picture.convert("L")), "ok"
    yield "jpeg-cmyk.jpg", cmyk, "ok"
    yield "jpeg-ycck.jpg", cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :], "ok"
    yield "jpeg-mpo.jpg", encode(picture, "MPO", save_all=True, append_images=[picture]), "ok"
    yield "jpeg-coarse.jpg", encode(picture, quality=1, subsampling=2), "ok"
    for width, height in ((1, 1), (1, 10_000), (10_000, 1), (65_500, 1)):
        image = picture.resize((width, height))
        yield f"jpeg-{width}x{height}.jpg", encode(image), "ok"
        yield f"jpeg-progressive-{width}x{height}.jpg", encode(image, progressive=True), "ok"
    yield "jpeg-with-a-tail.jpg", baseline + bytes(50_000), "ok"
    yield "jpeg-with-a-zip-behind.jpg", baseline + _zip(), "ok"
    yield "jpeg-behind-a-zero.jpg", b"\0" + baseline, "unsupported"
    yield "jpeg-padded.jpg", baseline[:2] + b"\xff" * 99 + baseline[2:], "ok"

    # A restart marker behind each of the 30 rows of blocks tells where a row ends.
    for colour in ("RGB", "L", "CMYK"):
        step = 16 if colour == "RGB" else 8
        rowed = encode(picture.convert(colour), quality=90, restart_marker_rows=1)
        scan = next(start for marker, start, _ in segments(rowed) if marker == 0xDA)
        ends = [
            i for i in range(scan, len(rowed) - 1) if rowed[i] == 255 and 0xD0 <= rowed[i + 1] < 216
        ]
        count = 480 // step
        assert len(ends) == count - 1
        for percent in (5, 20, 40, 60, 80, 95):
            rows = count * percent // 100
            status = "truncated" if percent > 50 else "unreadable"
            name = f"jpeg-{colour.lower()}-cut-{rows}-of-{count}.jpg"
            yield name, rowed[: ends[rows - 1] + 2], status
    for percent in (1, 10, 30, 50, 70, 90):
        status = "unreadable" if percent == 1 else "truncated unreadable"
        yield f"jpeg-photo-cut-{percent}.jpg", photo[: len(photo) * percent // 100], status
    for size in (3, 4, 20, 21, 100, 300, 600):
        yield f"jpeg-header-cut-{size}.jpg", baseline[:size], "unreadable"
        yield f"jpeg-progressive-header-cut-{size}.jpg", progressive[:size], "unreadable"
    scans = [end for marker, _, end in segments(progressive) if marker == 0xDA]
    first = next(start for marker, start, _ in segments(progressive) if marker == 0xDA)
    for share in (0.2, 0.6, 0.95):
        cut = int(first + share * (scans[0] - first))
        yield f"jpeg-first-scan-cut-{share}.jpg", progressive[:cut], "unreadable"
    for i, end in enumerate(scans[:-1]):
        yield f"jpeg-cut-after-scan-{i + 1}.jpg", progressive[: end + 4], "truncated"
    yield "jpeg-progressive-cut-90.jpg", progressive[: len(progressive) * 9 // 10], "truncated"
    yield "jpeg-no-end.jpg", baseline[:-2], "ok truncated"
    # What a card that was pulled out leaves: the right length, and no data.
    hole = len(baseline) * 6 // 10
    yield "jpeg-zeros-behind.jpg", baseline[:hole] + bytes(len(baseline) - hole), ANY_DAMAGE
    yield "jpeg-of-zeros.jpg", b"\xff\xd8\xff" + bytes(100_000), "unreadable"
    sector = 512 * (hole // 512)
    yield "jpeg-sector-lost.jpg", baseline[:sector] + baseline[sector + 512 :], ANY_DAMAGE
    data = next(start for marker, start, _ in segments(baseline) if marker == 0xDA) + 14
    for seed in range(8):
        yield f"jpeg-data-flips-{seed}.jpg", flips(baseline, seed, data, 5), ANY_DAMAGE
        yield f"jpeg-flips-{seed}.jpg", flips(baseline, seed, count=20), ANY
        yield (
            f"jpeg-header-flips-{seed}.jpg",
            flips(baseline[:data], seed, 2, 3) + baseline[data:],
            ANY,
        )
        yield f"jpeg-progressive-flips-{seed}.jpg", flips(progressive, seed, count=20), ANY


def _jpeg_segments(picture: Image.Image) -> Files:
    good = encode(picture)
    parts = {marker: (start, end) for marker, start, end in segments(good)}
    frame = parts[0xC0][0]

    def put(marker: int, body: bytes) -> bytes:
        return good[:2] + _segment(marker, body) + good[2:]

    def framed(offset: int, value: bytes) -> bytes:
        at = frame + 4 + offset
        return good[:at] + value + good[at + len(value) :]

    for width, height in (*TOO_LARGE, (65535, 65535)):
        size = struct.pack(">HH", height, width)
        yield f"jpeg-bomb-{width}x{height}.jpg", framed(1, size), "too_large"
    yield "jpeg-bomb-alone.jpg", good[:2] + framed(1, b"\xff\xff\xff\xff")[frame:], "too_large"
    for name, offset, value in (
        ("height-0", 1, b"\0\0"), ("width-0", 3, b"\0\0"), ("12-bits", 0, b"\x0c"),
        ("no-components", 5, b"\0"), ("2-components", 5, b"\2"), ("200-components", 5, b"\xc8"),
    ):  # fmt: skip
        yield f"jpeg-{name}.jpg", framed(offset, value), "unreadable"
    yield "jpeg-4-components.jpg", framed(5, b"\4"), "unreadable"
    # Of a frame that is three times as high as its data, a third can be read.
    yield "jpeg-data-missing.jpg", framed(1, struct.pack(">H", 720)), ANY_DAMAGE
    yield "jpeg-sampling-0.jpg", framed(7, b"\0"), "unreadable"
    yield "jpeg-sampling-15.jpg", framed(7, b"\xff"), "unreadable"
    yield "jpeg-arithmetic.jpg", good[: frame + 1] + b"\xc9" + good[frame + 2 :], ANY_DAMAGE
    yield "jpeg-lossless.jpg", good[: frame + 1] + b"\xc3" + good[frame + 2 :], ANY_DAMAGE
    for marker in (0xC0, 0xC4, 0xDB, 0xDA):
        without = b"".join(good[start:end] for kind, start, end in segments(good) if kind != marker)
        status = "ok unreadable" if marker == 0xC4 else "unreadable"
        yield f"jpeg-without-{marker:x}.jpg", good[:2] + without, status
    for name, marker, body in (
        ("jfif", 0xE0, b"JFIF"), ("adobe", 0xEE, b"Adobe"), ("icc", 0xE2, b"ICC_PROFILE\0"),
        ("mpf", 0xE2, b"MPF\0"), ("exif", 0xE1, b"Exif\0\0"),
        ("photoshop", 0xED, b"Photoshop 3.0\0008BIM\3\xed"),
        ("xmp", 0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    ):  # fmt: skip
        yield f"jpeg-short-{name}.jpg", put(marker, body), "ok unreadable"
        junk = random.Random(name).randbytes(3000)
        yield f"jpeg-junk-{name}.jpg", put(marker, body + b"\0\1\1" + junk), "ok unreadable"
        yield f"jpeg-cut-in-{name}.jpg", put(marker, body + junk)[:2000], "unreadable"
    yield "jpeg-icc-1-of-9.jpg", put(0xE2, b"ICC_PROFILE\0\1\x09" + bytes(500)), "ok"
    profile = b"".join(
        _segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 200]) + bytes(60_000)) for i in range(200)
    )
    yield "jpeg-icc-12-mb.jpg", good[:2] + profile + good[2:], "ok"
    yield "jpeg-comments.jpg", good[:2] + _segment(0xFE, b"#" * 9) * 20_000 + good[2:], "ok"
    yield "jpeg-length-0.jpg", good[:2] + b"\xff\xe1\0\0" + good[2:], "ok unreadable"
    yield "jpeg-length-too-long.jpg", good[:2] + b"\xff\xe1\xff\xff" + good[2:900], "unreadable"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


# -- EXIF --------------------------------------------------------------------------------------


def directory(
    *entries: tuple[int, int, int, bytes | int], following: int = 0, tail: bytes = b""
) -> bytes:
    """A little-endian TIFF of one directory, as EXIF is: tag, type, count, and value or offset."""
    body = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    for tag, kind, count, value in entries:
        packed = value if isinstance(value, bytes) else struct.pack("<I", value)
        body += struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return body + struct.pack("<I", following) + tail


def odd_exif() -> dict[str, bytes]:
    """EXIF blocks that are wrong, some of them with an orientation that is not."""
    turned = ON_ITS_SIDE
    blocks = {
        "nothing": b"",
        "random": random.Random(0).randbytes(500),
        "header-only": b"II*\0",
        "another-byte-order": b"XX*\0\x08\0\0\0",
        "offset-outside": b"II*\0\xff\xff\xff\xff",
        "too-many-entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(50),
        "of-itself": directory(turned, (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), following=8),
        "sub-directories": directory(turned, (0x14A, 4, 3, 38), tail=struct.pack("<3I", 8, 8, 8)),
        "giant-text": directory(turned, (0x10F, 2, 0xFFFFFFFF, 8)),
        "giant-numbers": directory(turned, (0x110, 3, 0x7FFFFFFF, 8)),
        "giant-fractions": directory(turned, (0x11A, 5, 0x1FFFFFFF, 8)),
        "unknown-type": directory(turned, (0x110, 99, 1, 8)),
        "divided-by-0": directory(turned, (0x11A, 5, 1, 38), tail=struct.pack("<II", 1, 0)),
        "resolution-as-text": directory(turned, (0x11A, 2, 4, b"abc")),
        "resolution-as-bytes": directory(turned, (0x11A, 7, 4, b"abcd")),
        "negative-width": directory(turned, (0x100, 9, 1, b"\xff\xff\xff\xff")),
        "negative-gps": directory(turned, (0x8825, 9, 1, b"\x08\0\xff\x80")),
        "float-pointer": directory(turned, (0x8769, 11, 1, struct.pack("<f", 8.5))),
        "float-date": directory(turned, (0x132, 11, 1, struct.pack("<f", 2021.5))),
        "text-xmp": directory(turned, (0x2BC, 2, 4, b"abc")),
        "not-ascii": directory(turned, (0x10F, 2, 4, b"\xff\xfe\xfd")),
        "2000-tags": directory(turned, *((tag, 3, 1, 1) for tag in range(1000, 3000))),
        "orientation-as-text": directory((0x112, 2, 2, b"6")),
        "orientation-twice": directory((0x112, 3, 2, b"\6\0\6\0")),
        "orientation-huge": directory((0x112, 4, 1, 0xFFFFFFFF)),
        "orientation-as-bytes": directory((0x112, 7, 1, b"\6")),
        "orientation-as-float": directory((0x112, 11, 1, struct.pack("<f", 6))),
        "orientation-not-a-number": directory((0x112, 11, 1, struct.pack("<f", float("nan")))),
        "orientation-by-0": directory((0x112, 5, 1, 26), tail=struct.pack("<II", 6, 0)),
    }
    assert all(len(block) < 65_000 for block in blocks.values())
    return blocks


def _exif(picture: Image.Image) -> Files:
    jpeg, png = encode(picture), encode(picture.resize((80, 60)), "PNG")
    for name, block in odd_exif().items():
        yield f"jpeg-exif-{name}.jpg", with_exif(jpeg, block), "ok"
    for name in ("random", "of-itself", "giant-text", "resolution-as-text", "negative-gps"):
        chunk = _chunk(b"eXIf", odd_exif()[name])
        yield f"png-exif-{name}.png", png[:33] + chunk + png[33:], "ok"
    whole = with_exif(jpeg, odd_exif()["2000-tags"])
    yield "jpeg-cut-in-2000-tags.jpg", whole[:5000], "unreadable"


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    """A JPEG with an EXIF block put into it."""
    return jpeg[:2] + _segment(0xE1, b"Exif\0\0" + block) + jpeg[2:]


# -- PNG ---------------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, bits: int = 8, kind: int = 2, rest: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + rest


def _pngs(picture: Image.Image) -> Files:
    good = encode(picture, "PNG")
    end = _chunk(b"IEND", b"")

    def put(*chunks: bytes) -> bytes:
        return good[:33] + b"".join(chunks) + good[33:]

    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    palette = picture.quantize(64)
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    yield "png-good.png", good, "ok"
    yield "png-palette.png", encode(palette, "PNG"), "ok"
    yield "png-palette-clear.png", encode(palette, "PNG", transparency=b"\0\x80" * 8), "ok"
    yield "png-alpha.png", encode(alpha, "PNG"), "ok"
    yield "png-grey-alpha.png", encode(alpha.convert("LA"), "PNG"), "ok"
    yield "png-clear-colour.png", encode(picture, "PNG", transparency=(0, 0, 0)), "ok"
    yield "png-16-bit.png", encode(Image.fromarray(grey), "PNG"), "ok"
    yield "png-1-bit.png", encode(picture.convert("1"), "PNG"), "ok"
    yield "png-animated.png", encode(picture, "PNG", save_all=True, append_images=[alpha]), "ok"
    yield "png-interlaced.png", _interlaced(), "ok"
    rows = zlib.compress((b"\0" + bytes(range(240))) * 40)
    yield "png-16-bit-colour.png", _png(40, 40, 16, 2, _chunk(b"IDAT", rows) + end), "ok"
    yield "png-1x1.png", encode(picture.resize((1, 1)), "PNG"), "ok"
    yield "png-1x10000.png", encode(picture.resize((1, 10_000)), "PNG"), "ok"
    yield "png-10000x1.png", encode(picture.resize((10_000, 1)), "PNG"), "ok"

    for size in (8, 12, 20, 29, 33, 40):
        yield f"png-header-cut-{size}.png", good[:size], "unreadable"
    for percent in (10, 30, 50, 70, 90, 99):
        yield f"png-cut-{percent}.png", good[: len(good) * percent // 100], "unreadable"
    yield "png-no-end.png", good[:-12], "ok unreadable"
    for seed in range(8):
        yield f"png-flips-{seed}.png", flips(good, seed, count=20), ANY
        # Behind the header and the beginning of the data, and before its end.
        broken = flips(good[:-20], seed, 60, 20) + good[-20:]
        yield f"png-data-flips-{seed}.png", broken, "unreadable"
    bombs = (*TOO_LARGE, (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (2**31 - 1, 1))
    for width, height in bombs:
        data = _chunk(b"IDAT", zlib.compress(bytes(1000)))
        yield f"png-bomb-{width}x{height}.png", _png(width, height, rest=data + end), "too_large"
    # Below the limit, so that it is decoded: a few hundred bytes or kilobytes for 140 million.
    for bits in (1, 8):
        yield f"png-12000x12000-{bits}-bit.png", _blank_png(12_000, bits), "ok"
    yield "png-12000x12000-no-data.png", _png(12_000, 12_000, rest=end), "unreadable"
    short = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    yield "png-12000x12000-little-data.png", _png(12_000, 12_000, rest=short + end), "unreadable"
    for width, height in ((0, 0), (0, 5), (5, 0)):
        yield f"png-{width}x{height}.png", _png(width, height, rest=short + end), "unreadable"
    for bits, kind in ((3, 0), (8, 7), (8, 1), (0, 2), (255, 255)):
        name = f"png-{bits}-bits-of-kind-{kind}.png"
        yield name, _png(9, 9, bits, kind, short + end), "unreadable"

    bomb = _blank(60)
    for name, chunk in (
        ("ztxt-bomb", _chunk(b"zTXt", b"Comment\0\0" + bomb)),
        ("itxt-bomb", _chunk(b"iTXt", b"Comment\0\1\0en\0\0" + bomb)),
        ("icc-bomb", _chunk(b"iCCP", b"icc\0\0" + bomb)),
        ("ztxt-broken", _chunk(b"zTXt", b"Comment\0\0" + random.Random(0).randbytes(99))),
        ("ztxt-method", _chunk(b"zTXt", b"Comment\0\x63")),
        ("itxt-short", _chunk(b"iTXt", b"Comment\0\1")),
        ("itxt-not-text", _chunk(b"iTXt", b"Comment\0\0\0\xff\0\xfe\0\xfd\xfc")),
        ("icc-broken", _chunk(b"iCCP", b"icc\0\0" + random.Random(0).randbytes(99))),
        ("icc-short", _chunk(b"iCCP", b"icc")),
        ("text-of-5-mb", _chunk(b"tEXt", b"Comment\0" + b"x" * 5_000_000)),
        ("texts-5000", _chunk(b"tEXt", b"Comment\0" + b"x" * 99) * 5000),
        ("phys-short", _chunk(b"pHYs", b"\0")),
        ("gamma-short", _chunk(b"gAMA", b"")),
        ("clear-colour-short", _chunk(b"tRNS", b"\0")),
        ("animation-short", _chunk(b"acTL", b"\0")),
        ("animation-of-0", _chunk(b"acTL", bytes(8))),
        ("header-twice", good[8:33]),
        ("chunk-broken", _chunk(b"tEXt", b"a\0b")[:-1] + b"!"),
        ("chunk-name", _chunk(b"\0\n/\xff", b"")),
        ("chunk-endless", b"\xff\xff\xff\xfftEXt" + bytes(99)),
    ):
        yield f"png-{name}.png", put(chunk), "ok unreadable"
    yield "png-no-palette.png", _png(9, 9, 8, 3, short + end), "ok unreadable"
    yield "png-junk-data.png", _png(9, 9, rest=_chunk(b"IDAT", b"junk") + end), "unreadable"
    yield "png-end-only.png", good[:8] + end, "unreadable"
    yield "png-endings-of-text.png", good.replace(b"\r\n", b"\n"), "unreadable unsupported"


def _interlaced() -> bytes:
    """Adam7's seven passes over 8 x 8 grey pixels."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    data = b"".join((b"\0" + b"\x80" * width) * height for width, height in passes)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1))
    image = _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + image


def _blank(megabytes: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


def _blank_png(side: int, bits: int) -> bytes:
    packer = zlib.compressobj(1)
    row = bytes(1 + side * bits // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    return _png(side, side, bits, 0, _chunk(b"IDAT", data) + _chunk(b"IEND", b""))


# -- GIF, WebP, TIFF, BMP, AVIF ----------------------------------------------------------------


def _cuts(name: str, suffix: str, data: bytes, sizes: tuple[int, ...]) -> Files:
    """A file cut in its header, at these sizes, and everywhere behind."""
    for size in sizes:
        yield f"{name}-header-cut-{size}.{suffix}", data[:size], "unreadable"
    for percent in (20, 40, 60, 80, 95):
        cut = max(len(data) * percent // 100, sizes[-1] + 1)
        yield f"{name}-cut-{percent}.{suffix}", data[:cut], "unreadable"
    for seed in range(6):
        yield f"{name}-flips-{seed}.{suffix}", flips(data, seed, count=3), ANY


def _gifs(picture: Image.Image) -> Files:
    still = encode(picture, "GIF")
    others = [picture.rotate(angle) for angle in (5, 10)]
    moving = encode(picture, "GIF", save_all=True, append_images=others, duration=99, loop=0)
    yield "gif-still.gif", still, "ok"
    yield "gif-moving.gif", moving, "ok"
    yield "gif-clear.gif", encode(picture.quantize(16), "GIF", transparency=3), "ok"
    yield "gif-grey.gif", encode(picture.convert("L"), "GIF"), "ok"
    yield "gif-1x1.gif", encode(picture.resize((1, 1)), "GIF"), "ok"
    yield "gif-second-frame-cut.gif", moving[: len(moving) * 9 // 10], "ok"
    yield from _cuts("gif", "gif", still, (6, 7, 10, 13))

    def frame(screen: tuple[int, int], left: int, top: int, width: int, height: int) -> bytes:
        head = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + bytes(6)
        return head + b"," + struct.pack("<HHHH", left, top, width, height) + b"\0\2\2\x4c\1\0;"

    for width, height in (*TOO_LARGE, (65535, 65535)):
        yield f"gif-bomb-{width}x{height}.gif", frame((width, height), 0, 0, 1, 1), "too_large"
    yield "gif-bomb-in-a-frame.gif", frame((1, 1), 0, 0, 65535, 65535), "too_large"
    yield "gif-bomb-by-its-place.gif", frame((1, 1), 65534, 65534, 1, 1), "too_large"
    yield "gif-8000x8000-of-35-bytes.gif", frame((8000, 8000), 0, 0, 1, 1), "ok"
    yield "gif-0x0.gif", frame((0, 0), 0, 0, 0, 0), "unreadable"
    yield "gif-no-frame.gif", still[:13] + b";", "unreadable"
    yield "gif-extension-only.gif", b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\xff" * 999, "unreadable"
    yield "gif-code-size-200.gif", frame((5, 5), 0, 0, 5, 5).replace(b"\2\2", b"\xc8\2"), ANY_DAMAGE


def _webps(picture: Image.Image) -> Files:
    lossy, lossless = encode(picture, "WEBP"), encode(picture, "WEBP", lossless=True)
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    yield "webp-lossy.webp", lossy, "ok"
    yield "webp-lossless.webp", lossless, "ok"
    yield "webp-alpha.webp", encode(alpha, "WEBP"), "ok"
    yield "webp-alpha-lossless.webp", encode(alpha, "WEBP", lossless=True), "ok"
    yield "webp-moving.webp", encode(picture, "WEBP", save_all=True, append_images=[alpha]), "ok"
    yield "webp-1x1.webp", encode(picture.resize((1, 1)), "WEBP"), "ok"
    yield from _cuts("webp", "webp", lossy, (12, 16, 20, 26, 30))
    yield from _cuts("webp-lossless", "webp", lossless, (12, 16, 21, 25))

    def canvas(width: int, height: int, *chunks: bytes, flags: int = 2) -> bytes:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        extended = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size
        body = b"WEBP" + extended + b"".join(chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    tiny = encode(picture.resize((16, 16)), "WEBP")[12:]
    head = bytes(6) + (15).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    frame = b"ANMF" + struct.pack("<I", len(head + tiny)) + head + tiny
    moving = (b"ANIM" + struct.pack("<I", 6) + bytes(6), frame)
    for width, height in (*TOO_LARGE, (65536, 65535), (2**24, 100), (2**24, 2**24)):
        name = f"webp-bomb-{width}x{height}.webp"
        yield name, canvas(width, height, *moving), "too_large"
    yield "webp-bomb-cut.webp", canvas(2**24, 2**24, flags=0), "too_large"
    yield "webp-6000x6000.webp", canvas(6000, 6000, *moving), "ok"
    at = lossy.index(b"\x9d\x01\x2a") + 3
    giant = lossy[:at] + struct.pack("<HH", 16383, 16383) + lossy[at + 4 :]
    yield "webp-bomb-lossy.webp", giant, "too_large"
    at = lossless.index(b"VP8L") + 9
    giant = lossless[:at] + struct.pack("<I", 0x0FFFFFFF) + lossless[at + 4 :]
    yield "webp-bomb-lossless.webp", giant, "too_large"
    at = lossy.index(b"\x9d\x01\x2a") + 3
    yield "webp-0x0.webp", lossy[:at] + bytes(4) + lossy[at + 4 :], "unreadable"
    yield "webp-canvas-without-image.webp", canvas(50, 50, flags=0), "unreadable"
    yield "webp-canvas-of-another-size.webp", canvas(50, 50, tiny, flags=0), "unreadable"
    yield "webp-length-0.webp", lossy[:4] + bytes(4) + lossy[8:], "unreadable"
    yield "webp-length-too-long.webp", lossy[:4] + b"\xf0\xff\xff\xff" + lossy[8:], "ok unreadable"
    for kind in ("EXIF", "ICCP", "XMP "):
        junk = kind.encode() + struct.pack("<I", 400) + random.Random(kind).randbytes(400)
        data = canvas(16, 16, *([junk, tiny] if kind == "ICCP" else [tiny, junk]), flags=0x2C)
        yield f"webp-junk-{kind.strip().lower()}.webp", data, "ok unreadable"


def _tiffs(picture: Image.Image) -> Files:
    grey = np.asarray(picture.convert("L"))

    def tiff(image: Image.Image, compression: str | None = None, **options: object) -> bytes:
        return encode(image, "TIFF", compression=compression, **options)

    good = tiff(picture)
    yield "tiff-good.tif", good, "ok"
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield f"tiff-{compression}.tif", tiff(picture, compression), "ok"
    yield "tiff-fax.tif", tiff(picture.convert("1"), "group4"), "ok"
    yield "tiff-16-bit.tif", tiff(Image.fromarray(grey.astype(np.uint16) * 257)), "ok"
    yield "tiff-32-bit.tif", tiff(Image.fromarray(grey.astype(np.int32) - 99)), "ok"
    values = grey.astype(np.float32) / 255
    yield "tiff-float.tif", tiff(Image.fromarray(values)), "ok"
    values[::2] = np.nan
    values[1::2] = [np.inf, -np.inf] * 80
    yield "tiff-float-not-a-number.tif", tiff(Image.fromarray(values)), "ok"
    for mode in ("CMYK", "LAB", "YCbCr", "P", "RGBA", "LA", "1"):
        image = Image.new("LAB", (40, 30), (120, 9, 9)) if mode == "LAB" else picture.convert(mode)
        yield f"tiff-{mode.lower()}.tif", tiff(image), "ok"
    yield "tiff-pages.tif", tiff(picture, save_all=True, append_images=[picture] * 3), "ok"
    yield "tiff-big.tif", tiff(picture, big_tiff=True), "ok"
    yield "tiff-on-its-side.tif", tiff(picture, tiffinfo={0x112: 6}), "ok"
    yield "tiff-1x10000.tif", tiff(picture.resize((1, 10_000)), "tiff_lzw"), "ok"
    yield from _cuts("tiff", "tif", good, (4, 8, 10, 60))
    yield from _cuts("tiff-lzw", "tif", tiff(picture, "tiff_lzw"), (60,))

    def plain(*changes: tuple[int, int, int, bytes | int], following: int = 0) -> bytes:
        """8 x 8 grey pixels, with some entries of the directory replaced or added."""
        entries: dict[int, tuple[int, int, int, bytes | int]] = {
            tag: (tag, 4, 1, value)
            for tag, value in (
                (256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 8),
                (279, 64),
            )
        }  # fmt: skip
        entries.update((change[0], change) for change in changes)
        if 273 not in [change[0] for change in changes]:
            entries[273] = (273, 4, 1, 14 + 12 * len(entries))
        return directory(*sorted(entries.values()), following=following, tail=bytes(range(64)))

    yield "tiff-plain.tif", plain(), "ok"
    bombs = (*TOO_LARGE, (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (2**32 - 1, 2**32 - 1))
    for width, height in bombs:
        data = plain((256, 4, 1, width), (257, 4, 1, height))
        yield f"tiff-bomb-{width}x{height}.tif", data, "too_large"
    tiles = ((324, 4, 1, 14), (325, 4, 1, 64))
    for side in (16, 65_536, 2**30):
        data = plain((322, 4, 1, side), (323, 4, 1, side), *tiles, (259, 4, 1, 8))
        yield f"tiff-tile-{side}.tif", data, "unreadable"
    deflated = (259, 4, 1, 8)
    giant = 0xFFFFFFF0
    for name, changes, status in (
        ("0x0", [(256, 4, 1, 0), (257, 4, 1, 0)], "unreadable unsupported"),
        ("strip-outside", [(273, 4, 1, giant)], "unreadable"),
        ("strip-giant", [(279, 4, 1, giant)], "ok unreadable"),
        ("strip-giant-deflated", [(279, 4, 1, giant), deflated], "unreadable"),
        ("strips-2-billion", [(273, 4, 2**31, 14), (279, 4, 2**31, 14)], "unreadable unsupported"),
        ("rows-giant", [(278, 4, 1, giant), deflated], "unreadable"),
        ("rows-0", [(278, 4, 1, 0)], "ok unreadable"),
        ("bits-0", [(258, 3, 1, 0)], "unreadable unsupported"),
        ("bits-giant", [(258, 3, 2**31 - 1, 14)], "ok unreadable unsupported"),
        ("samples-giant", [(277, 4, 1, giant)], "unreadable unsupported"),
        ("compression-unknown", [(259, 3, 1, 999)], "unreadable unsupported"),
        ("not-deflated", [deflated], "unreadable"),
        ("not-lzw", [(259, 4, 1, 5)], "unreadable"),
        ("not-a-jpeg", [(259, 4, 1, 7)], "unreadable"),
        ("not-a-fax", [(259, 4, 1, 4), (258, 4, 1, 1)], "ok unreadable"),
        ("width-as-text", [(256, 2, 4, b"abc")], "unreadable unsupported"),
        ("width-negative", [(256, 9, 1, b"\xff\xff\xff\xff")], "unreadable unsupported"),
        ("resolution-by-0", [(282, 5, 1, 8), (283, 5, 1, 0)], "ok"),
        ("xmp-as-a-number", [(700, 4, 1, 5), ON_ITS_SIDE], "ok unreadable"),
        ("orientation-twice", [(0x112, 3, 2, b"\6\0\6\0")], "ok"),
    ):
        yield f"tiff-{name}.tif", plain(*changes), status
    yield "tiff-directory-of-itself.tif", plain(following=8), "ok"
    yield "tiff-directory-outside.tif", b"II*\0\xff\xff\xff\x7f" + bytes(50), "unreadable"
    yield "tiff-directory-empty.tif", b"MM\0*\0\0\0\x08" + bytes(50), "unreadable"
    yield "tiff-directory-of-65535.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(99), "unreadable"

    # Camera raw files are TIFFs, with a small preview first or with nothing that is an image.
    yield "raw-dng.dng", plain((254, 4, 1, 1)), "unsupported"
    yield "raw-nef.nef", plain((254, 4, 1, 1), (271, 2, 6, 8), (330, 4, 1, 8)), "unsupported"
    yield "raw-mosaic.dng", plain((262, 3, 1, 32803)), "unsupported"
    canon = directory((256, 3, 1, 5184), (257, 3, 1, 3456), (259, 3, 1, 6), (271, 2, 6, 8))
    yield "raw-cr2.cr2", canon + bytes(500), "unsupported"
    yield "raw-cr3.cr3", b"\0\0\0\x18ftypcrx " + bytes(500), "unsupported"
    yield "raw-orf.orf", b"IIRO\x08\0\0\0" + bytes(500), "unsupported"
    yield "raw-rw2.rw2", b"IIU\0\x18\0\0\0" + bytes(500), "unsupported"
    yield "raw-raf.raf", b"FUJIFILMCCD-RAW 0201" + bytes(500), "unsupported"


def _bmps(picture: Image.Image) -> Files:
    good = encode(picture, "BMP")
    yield "bmp-good.bmp", good, "ok"
    yield "bmp-palette.bmp", encode(picture.quantize(200), "BMP"), "ok"
    yield "bmp-1-bit.bmp", encode(picture.convert("1"), "BMP"), "ok"
    yield "bmp-alpha.bmp", encode(picture.convert("RGBA"), "BMP"), "ok"
    yield "bmp-1x1.bmp", encode(picture.resize((1, 1)), "BMP"), "ok"
    yield from _cuts("bmp", "bmp", good, (14, 18, 30, 53))

    def changed(offset: int, form: str, *values: int) -> bytes:
        packed = struct.pack(form, *values)
        return good[:offset] + packed + good[offset + len(packed) :]

    yield "bmp-upside-down.bmp", changed(22, "<i", -120), "ok"
    for width, height in (*TOO_LARGE, (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (12248, -12248)):
        name = f"bmp-bomb-{width}x{height}.bmp"
        yield name, changed(18, "<ii", width, height)[:60], "too_large"
    yield "bmp-0x0.bmp", changed(18, "<ii", 0, 0), "unreadable"
    yield "bmp-negative.bmp", changed(18, "<ii", -160, 120), ANY
    yield "bmp-lowest-height.bmp", changed(22, "<i", -(2**31)), "too_large"
    for bits in (0, 3, 64, 65535):
        yield f"bmp-{bits}-bits.bmp", changed(28, "<H", bits), "unreadable"
    for compression in (1, 4, 99):
        yield f"bmp-compression-{compression}.bmp", changed(30, "<I", compression), ANY_DAMAGE
    yield "bmp-data-outside.bmp", changed(10, "<I", 2**31), "unreadable"
    yield "bmp-header-size-0.bmp", changed(14, "<I", 0), "unreadable"
    yield "bmp-header-size-giant.bmp", changed(14, "<I", 2**31), "unreadable"
    yield "bmp-colours-giant.bmp", changed(28, "<H", 8)[:46] + b"\xff" * 8, "unreadable"


def _avifs(picture: Image.Image) -> Files:
    if not features.check("avif"):
        yield "avif-not-read.avif", b"\0\0\0\x18ftypavif" + bytes(99), "unsupported"
        return
    good = encode(picture, "AVIF", speed=10)
    alpha = picture.copy()
    alpha.putalpha(99)
    yield "avif-good.avif", good, "ok"
    yield "avif-alpha.avif", encode(alpha, "AVIF", speed=10), "ok"
    yield "avif-grey.avif", encode(picture.convert("L"), "AVIF", speed=10), "ok"
    yield from _cuts("avif", "avif", good, (16, 24, 40, 120))
    at = good.index(b"ispe") + 8
    for width, height in (*TOO_LARGE, (2**32 - 1, 2**32 - 1)):
        data = good[:at] + struct.pack(">II", width, height) + good[at + 8 :]
        yield f"avif-bomb-{width}x{height}.avif", data, "too_large unreadable"
    yield "avif-0x0.avif", good[:at] + bytes(8) + good[at + 8 :], "unreadable"


# -- what is no image at all -------------------------------------------------------------------


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(zipfile.ZipInfo("photo.jpg"), bytes(500))
    return sink.getvalue()


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("photo.jpg"))
    return sink.getvalue()


def _box(brand: bytes) -> bytes:
    """The beginning of a file of the MPEG-4 family."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"isom" + b"mp41" + bytes(500)


def _others(jpeg: bytes) -> Files:
    for i in range(10):
        yield f"empty-{i}.jpg", b"", "empty"
    tell: dict[str, Callable[[], bytes] | bytes] = {
        "zip": _zip, "tar": _tar, "gzip": lambda: gzip.compress(jpeg, mtime=0),
        "bzip2": b"BZh91AY&SY" + bytes(99), "rar": b"Rar!\x1a\7\0" + bytes(99),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
        "html": b"<!DOCTYPE html><html><title>404</title></html>",
        "html-spaced": b"\r\n  <HTML><body>Sign in</body></HTML>",
        "xml": b'<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>',
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "text": b"Dear colleague,\nthe photographs are on the other card.\n",
        "text-utf-16": "Affen".encode("utf-16"), "json": b'{"error": "/srv/photos: not found"}',
        "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "mp4": lambda: _box(b"mp42"), "mov": lambda: _box(b"qt  "), "heic": lambda: _box(b"heic"),
        "3gp": lambda: _box(b"3gp4"), "avi": b"RIFF\xff\0\0\0AVI LIST" + bytes(500),
        "wav": b"RIFF\xff\0\0\0WAVEfmt " + bytes(500), "mkv": b"\x1aE\xdf\xa3" + bytes(500),
        "wmv": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(500), "mp3": b"ID3\4" + bytes(500),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(500), "postscript": b"%!PS-Adobe-3.0 EPSF",
        "photoshop": b"8BPS\0\1" + bytes(500), "jpeg-2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
        "jpeg-xl": b"\xff\x0a" + bytes(99), "ppm": b"P6 2 2 255\n" + bytes(12),
        "icon": b"\0\0\1\0\1\0" + bytes(99), "program": b"\x7fELF\2\1\1" + bytes(500),
        "python": b"import os\nos.abort()\n", "pickle": b"\x80\4cos\nabort\n(tR.",
        "zeros": bytes(5000), "ones": b"\xff" * 5000, "one-byte": b"\xff", "newline": b"\n",
        "random": random.Random(0).randbytes(5000), "base64": b"/9j/4AAQSkZJRgABAQAAAQABAAD/",
        "hex": jpeg.hex().encode(), "backwards": jpeg[::-1],
        "in-apple-double": b"\0\5\x16\7" + jpeg,
    }  # fmt: skip
    for name, data in tell.items():
        yield f"other-{name}.jpg", data() if callable(data) else data, "unsupported"
    for name, magic in (
        ("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n"), ("gif", b"GIF89a"),
        ("webp", b"RIFF\xff\0\0\0WEBP"), ("tiff", b"II*\0"), ("tiff-motorola", b"MM\0*"),
        ("bmp", b"BM\xff\0\0\0\0\0\0\0"),
    ):  # fmt: skip
        yield f"{name}-magic.jpg", magic, "unreadable"
        junk = random.Random(name).randbytes(500)
        yield f"{name}-magic-and-junk.jpg", magic + junk, "unreadable unsupported too_large"
