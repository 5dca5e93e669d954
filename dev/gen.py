"""Generates `protos/gen` from the contracts in `protos`: messages, gRPC code and the type stubs of both.

python -m dev.gen           writes protos/gen anew
python -m dev.gen --check   exits 1 and names the files when what is checked in is not what the contracts say
"""

import argparse
import filecmp
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "gen"
# The generated folders carry no __init__.py: `motcua` is a namespace package.


def contracts(root: Path) -> list[str]:
    """All .proto files under `root` as paths relative to it, in a stable order."""
    return sorted(p.relative_to(root).as_posix() for p in (root / "motcua").rglob("*.proto"))


def generate(protos: Path, out: Path) -> list[str]:
    """Generates the code of every contract under `protos` into the folder `out`; returns their names."""
    names = contracts(protos)
    if not names:
        raise SystemExit(f"no contracts under {protos}/motcua")
    scripts = Path(sysconfig.get_path("scripts"))
    out.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"--proto_path={protos}",
        f"--proto_path={files('grpc_tools') / '_proto'}",  # google/protobuf/*.proto
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *names,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc refused the contracts, see above")
    for empty in out.rglob("*_pb2_grpc.py"):  # a file of messages only has no service to generate code for
        if "class " not in empty.read_text():
            empty.unlink()
            empty.with_suffix(".pyi").unlink(missing_ok=True)
    return names


def differences(left: Path, right: Path) -> list[str]:
    """Names of files that are only in one of the two folders or differ, relative to them."""

    def tree(folder: Path) -> set[str]:
        return {
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }

    a, b = tree(left), tree(right)
    return sorted((a ^ b) | {n for n in a & b if not filecmp.cmp(left / n, right / n, shallow=False)})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `make gen` and, with --check, of CI."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare with what is checked in")
    check = parser.parse_args(argv).check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "gen"
        names = generate(PROTOS, fresh)
        changed = differences(fresh, GENERATED)
        if check:
            for name in changed:
                print(f"protos/gen/{name} is not what the contracts say: run `make gen`", file=sys.stderr)
            return 1 if changed else 0
        for name in changed:
            target = GENERATED / name
            if (fresh / name).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / name, target)
            else:
                target.unlink()
    print(f"{len(names)} contracts, {len(changed)} generated files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
