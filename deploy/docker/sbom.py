"""The bill of materials of an image: sbom.py ROOT prints it, as CycloneDX 1.5.

ROOT is the image's root file system, or what of it matters here: var/lib/dpkg/status and usr/share/doc. Debian's packages
come from dpkg's status; what Rollcall's own packages contain comes from the components.json in their documentation.
"""

import email.parser
import json
import pathlib
import sys

OWN = ("rollcall", "rollcall-libtorch")


def packages(root):
    """The installed packages' fields, as dpkg has them."""
    parser = email.parser.Parser()
    for block in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = parser.parsestr(block.strip())
        if fields["Status"] == "install ok installed":
            yield fields


def debian_component(fields):
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "supplier": {"name": fields["Maintainer"]},
            "properties": [{"name": "rollcall:source", "value": "debian"}]}


def materials(root):
    components = []
    version = None
    for fields in packages(root):
        if fields["Package"] in OWN:
            version = fields["Version"]
            listed = root / "usr/share/doc" / fields["Package"] / "components.json"
            components += json.loads(listed.read_text())
        else:
            components.append(debian_component(fields))
    if version is None:
        raise SystemExit(f"sbom.py: {root} has none of the packages {', '.join(OWN)}")
    components.sort(key=lambda component: component["purl"])
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {"type": "container", "bom-ref": f"rollcall@{version}", "name": "rollcall",
                                       "version": version}},
            "components": components}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    json.dump(materials(pathlib.Path(sys.argv[1])), sys.stdout, indent=1)
    print()
