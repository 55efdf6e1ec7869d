"""The image's bill of materials as CycloneDX JSON: one component for every package the root's own database lists.

The same packages give the same bytes: no random serial number, no moment but the build's epoch. A digest is named where
the lock file knows it; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from hostplane.image.backends import Package
from hostplane.image.packages import lock as locks
from hostplane.image.recipe import Recipe

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

__all__ = ["purl", "write"]

_NAMESPACE = UUID("6f6b1a0e-9d0b-5d0f-8f0e-0c2b7d1f4a55")


def purl(package: Package, distro: str, release: str, kind: str) -> str:
    """The package URL of a package; `kind` is deb or rpm."""
    from packageurl import PackageURL

    version, qualifiers = package.version, {"arch": package.arch, "distro": f"{distro.lower()}-{release}"}
    if kind == "rpm" and ":" in version:
        qualifiers["epoch"], version = version.split(":", 1)
    if kind == "deb" and package.source and package.source != package.name:
        qualifiers["source"] = package.source
    return str(PackageURL(kind, distro.lower(), package.name, version, qualifiers))


def write(packages: Sequence[Package], recipe: Recipe, epoch: int, path: Path, *, kind: str = "deb") -> None:
    """CycloneDX 1.6 into `path`, all at once; `kind` of the packages is deb or rpm.

    Raises:
        RecipeError: LockUnreadable.
    """
    from cyclonedx.output.json import JsonV1Dot6

    text = JsonV1Dot6(_bom(packages, recipe, epoch, kind)).output_as_string(indent=1)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(path)


def _bom(packages: Sequence[Package], recipe: Recipe, epoch: int, kind: str) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType

    image = Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=recipe.name,
        version=recipe.version,
        bom_ref=f"image:{recipe.name}@{recipe.version}",
        properties=_properties({"distro": recipe.distro, "release": recipe.release, "arch": recipe.arch.value}),
    )
    digests = _digests(recipe)
    components = [
        _component(each, recipe, kind, digests.get((each.name, each.version, each.arch))) for each in packages
    ]
    content = hashlib.sha256("\n".join(sorted(str(each.purl) for each in components)).encode()).hexdigest()
    bom = Bom(
        serial_number=uuid5(_NAMESPACE, f"{recipe.name} {recipe.version} {recipe.arch.value} {content}"),
        metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(epoch, UTC)),
        components=components,
    )
    bom.register_dependency(image, components)
    return bom


def _digests(recipe: Recipe) -> dict[tuple[str, str, str], str]:
    if recipe.packages.lock is None:
        return {}
    lock = locks.read(Path(recipe.packages.lock))
    return {(each.name, each.version, each.arch): each.sha256 for each in lock.packages if each.sha256}


def _component(package: Package, recipe: Recipe, kind: str, digest: str | None) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalEntity
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    url = purl(package, recipe.distro, recipe.release, kind)
    is_link = re.fullmatch(r"https?://[^\s<>\"{}|\\^`]+", package.homepage) is not None
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=url,
        purl=PackageURL.from_string(url),
        licenses=[LicenseExpression(package.licence)] if package.licence else [],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
        supplier=OrganizationalEntity(name=package.supplier) if package.supplier else None,
        external_references=(
            [ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(package.homepage))] if is_link else []
        ),
        properties=_properties({"source": package.source, "source-version": package.source_version}),
    )


def _properties(facts: dict[str, str]) -> Iterable[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"hostplane:{name}", value=value) for name, value in facts.items() if value]
