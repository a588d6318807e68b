"""Files that are no checkpoint we read: what they are, and how to get the real one."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .files import FileId, FormatError

HEAD = 4096  # bytes that tell
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar")  # of checkpoints
AGAIN = "fetch it again"
OF_TORCH = "take the model.safetensors or pytorch_model.bin of the same model"
FLAX = f"{OF_TORCH}, or load it with from_flax=True in transformers 4 and call save_pretrained"
TENSORFLOW = f"{OF_TORCH}, or load it with from_tf=True in transformers 4 and call save_pretrained"
SAVED = "save it as safetensors or with torch.save"
LFS = re.compile(
    rb"version https://git-lfs\.github\.com/spec/.*?oid (sha256:[0-9a-f]{64})\s+size (\d+)",
    re.DOTALL,
)
# Bytes, where they stand, what such a file is, and what to do; FILE is its name.
MAGICS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"BZh", 0, "is compressed with bzip2", "unpack it: bunzip2 FILE"),
    (b"\xfd7zXZ\0", 0, "is compressed with xz", "unpack it: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", 0, "is compressed with zstd", "unpack it: unzstd FILE"),
    (b"\x04\x22\x4d\x18", 0, "is compressed with lz4", "unpack it: unlz4 FILE"),
    (b"7z\xbc\xaf\x27\x1c", 0, "is a 7z archive", "unpack it: 7z x FILE"),
    (b"Rar!", 0, "is a rar archive", "unpack it: unrar x FILE"),
    (b"ustar", 257, "is a tar archive", "unpack it: tar xf FILE"),
    (b"\x89HDF\r\n\x1a\n", 0, "is HDF5, weights of TensorFlow or Keras", TENSORFLOW),
    (b"TFL3", 4, "is a model of TensorFlow Lite", OF_TORCH),
    (b"GGUF", 0, "is GGUF, weights for llama.cpp, mostly quantised", OF_TORCH),
    (b"\x93NUMPY", 0, "is an array of NumPy", SAVED),
    (b"%PDF", 0, "is a PDF", AGAIN),
    (b"\x89PNG", 0, "is a picture", AGAIN),
    (b"\xff\xd8\xff", 0, "is a picture", AGAIN),
)
LEVELDB = bytes.fromhex("57fb808b247547db")  # the end of TensorFlow's .index
DATA_SHARD = re.compile(r".+\.data-\d{5}-of-\d{5}")
# In folders of transformers and TensorFlow, where there is nothing of torch.
OTHER_WEIGHTS = {
    "flax_model.msgpack": ("Flax", FLAX),
    "flax_model.msgpack.index.json": ("Flax", FLAX),
    "tf_model.h5": ("TensorFlow", TENSORFLOW),
    "tf_model.h5.index.json": ("TensorFlow", TENSORFLOW),
    "saved_model.pb": ("TensorFlow", TENSORFLOW),
    "checkpoint": ("TensorFlow", TENSORFLOW),
    "model.onnx": ("ONNX", OF_TORCH),
}


def check_is_checkpoint(at: FileId) -> None:
    """Raises FormatError saying what a file is that begins neither as torch's nor safetensors."""
    with at.path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, at.size - len(LEVELDB)))
        end = file.read()
    for told in (_pointer, _packed, _tensors, _text):
        if known := told(head):
            raise _error(known, at)
    if end == LEVELDB or DATA_SHARD.fullmatch(at.path.name):
        raise FormatError("is a part of a checkpoint of TensorFlow", TENSORFLOW)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length + 8 > at.size:
        raise FormatError(f"is cut off: of a header of {length} bytes it has {at.size - 8}", AGAIN)
    problem = f"is no checkpoint of safetensors or torch: it begins with {head[:8].hex(' ')}"
    raise FormatError(problem, "give a file that one of them wrote")


Known = tuple[str, str]  # what a file is, and what to do


def _error(known: Known, at: FileId) -> FormatError:
    return FormatError(known[0], known[1].replace("FILE", shlex.quote(at.path.name[-80:])))


def _pointer(head: bytes) -> Known | None:
    if not head.strip(b"\0"):
        problem = "is empty" if not head else "begins with nothing but zeros"
        return problem, f"{AGAIN}: its download broke off, or the disk was full"
    if pointer := LFS.match(head):
        oid, size = (text.decode() for text in pointer.groups())
        problem = f"is a Git LFS pointer to a file of {size} bytes ({oid}), not the file itself"
        return problem, "run git lfs pull in its repository, or fetch it with hf download"
    return None


def _packed(head: bytes) -> Known | None:
    if head[:2] == b"\x1f\x8b":
        try:
            inner = zlib.decompressobj(wbits=31).decompress(head, 512)
        except zlib.error:
            inner = b""
        if inner[257:262] == b"ustar":
            return "is a tar archive compressed with gzip", "unpack it: tar xzf FILE"
        return "is compressed with gzip", "unpack it: gunzip < FILE > NEW"
    found = (row for row in MAGICS if head[row[1] :].startswith(row[0]))
    return next(((problem, remedy) for _, _, problem, remedy in found), None)


def _tensors(head: bytes) -> Known | None:
    """Weights that no magic bytes tell: msgpack maps of Flax, ONNX."""
    short, long = head[:1] > b"\x80" and head[:1] < b"\x90", head[:1] in (b"\xde", b"\xdf")
    key = re.match(rb".{1,5}?[\xa1-\xbf\xd9-\xdb]([\w/.]{2,})", head, re.DOTALL)
    if (short or long) and key:
        word = key[1].decode("ascii", "replace")[:20]
        return f"is msgpack ({word}...), as Flax saves weights", FLAX
    if head[:1] == b"\x08" and b"pytorch" in head[:40]:
        return "is a model in ONNX", OF_TORCH
    return None


def _text(head: bytes) -> Known | None:
    """What a text is; None for bytes."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    start = text[:200].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<!doctype svg", "<!--")):
        title = re.search(r"<title[^>]*>\s*([^<]{1,80})", text, re.IGNORECASE)
        named = f" ({title[1].strip()})" if title else ""
        return f"is a web page{named}, as a failed download leaves it", PAGE
    if start.startswith("<?xml") or start.startswith("<error"):
        return f"is the answer of a server in XML ({_shown(text)})", PAGE
    if text.count("\ufffd") > 3 or not all(c.isprintable() or c in "\t\r\n\f" for c in text):
        return None
    if start.startswith("model_checkpoint_path:"):
        return "is the list of a checkpoint of TensorFlow", TENSORFLOW
    if start.startswith(("{", "[")) and '"weight_map"' in text:
        return "is the index of a checkpoint in shards", "give the folder that holds them"
    return f"is text ({_shown(text)})", f"{AGAIN}: this may be a server's answer, or another file"


PAGE = (
    f"{AGAIN}: of huggingface.co take the link with /resolve/ instead of /blob/, log in where the "
    "model is gated, or use hf download"
)


def _shown(text: str) -> str:
    return " ".join(text[:60].split())


def foreign_zip(members: Iterable[str], at: FileId) -> FormatError:
    """What is to be said of a zip archive that torch did not write, by its members' names."""
    names = [name for name in members if not name.endswith("/")]
    return _error(_zip(names), at)


def _zip(names: Sequence[str]) -> Known:

    def those(is_one: Callable[[str], bool]) -> str:
        return ", ".join([name[-60:] for name in names if is_one(name)][:4])

    if those(lambda name: name.endswith(".npy")):
        return "is a zip archive, but not one of torch: arrays of NumPy", SAVED
    if those(lambda name: name.endswith(".weights.h5")):
        return "is a zip archive, but not one of torch: a model of Keras", TENSORFLOW
    if packed := those(lambda name: name.endswith(ENDINGS)):
        return f"is a zip archive, but not one of torch: it holds {packed}", "unpack it: unzip FILE"
    shown = those(lambda name: True) or "nothing"
    problem = f"is a zip archive, but not one of torch: it holds {shown}"
    return problem, "give a checkpoint that torch.save wrote"


def foreign_folder(folder: Path) -> FormatError:
    """What is to be said of a folder without weights that are read."""
    for name, (tool, remedy) in OTHER_WEIGHTS.items():
        if (folder / name).is_file():
            return FormatError(f"is a folder with weights of {tool} alone ({name})", remedy)
    files = sorted(path.name for path in folder.iterdir() if path.name.endswith(ENDINGS))
    if files:
        problem = "is a folder without weights by a name that is known"
        return FormatError(problem, f"give one of its files, such as {files[0][:80]}")
    remedy = "put model.safetensors or pytorch_model.bin into it"
    return FormatError("is a folder without weights", remedy)
